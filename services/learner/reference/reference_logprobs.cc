#include "services/learner/reference/reference_logprobs.h"

#include <algorithm>
#include <span>
#include <vector>

#include "common/base/logging.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

void SetColumn(std::span<const float> logprobs, TrainSequence& sequence) {
  const size_t first = FirstScored(sequence);
  sequence.reference_logprobs.assign(sequence.token_ids.size(), 0.0F);
  for (size_t i = 0; i < logprobs.size(); ++i) {
    if (sequence.loss_mask[first + i] != 0) sequence.reference_logprobs[first + i] = logprobs[i];
  }
}

}  // namespace

absl::Status ReferenceLogprobs::Fill(TrainBatch& batch) {
  std::vector<TrainSequence*> missing;
  double cached = 0;
  for (TrainSequence& sequence : batch.sequences) {
    // What has nothing in the loss is the trainer's to refuse.
    if (FirstScored(sequence) == sequence.token_ids.size()) continue;
    if (cache_ != nullptr) {
      if (const auto found = cache_->Find(sequence); found.has_value()) {
        SetColumn(*found, sequence);
        ++cached;
        continue;
      }
    }
    missing.push_back(&sequence);
  }
  batch.metrics["reference/scored"] = static_cast<double>(missing.size());
  if (cache_ != nullptr) batch.metrics["reference/cached"] = cached;
  if (missing.empty()) return absl::OkStatus();
  const std::vector<const TrainSequence*> asked(missing.begin(), missing.end());
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::vector<float>> scored, client_->Score(asked));
  for (size_t i = 0; i < missing.size(); ++i) {
    SetColumn(scored[i], *missing[i]);
    if (cache_ == nullptr || !writes_) continue;
    // A full disk costs time in a later run, nothing in this one.
    if (const absl::Status kept = cache_->Add(*missing[i], scored[i]); !kept.ok()) {
      LogWarning("reference log-probs are no longer cached", {{"error", kept}});
      writes_ = false;
    }
  }
  if (cache_ != nullptr && writes_) {
    if (const absl::Status synced = cache_->Sync(); !synced.ok()) {
      LogWarning("the cache of reference log-probs may not be durable", {{"error", synced}});
    }
  }
  return absl::OkStatus();
}

}  // namespace rollcall::learner
