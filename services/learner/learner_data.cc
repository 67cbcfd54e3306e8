// What a run trains on: its files, and the reference's log-probs of what they hold.
#include <memory>
#include <utility>

#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/learner/learner.h"

namespace rollcall::learner {

absl::Status Learner::ReadData() {
  const auto context = static_cast<uint32_t>(trainer_->decoder().config().max_position_embeddings);
  ROLLCALL_ASSIGN_OR_RETURN(data_, LoadTrainingData(config_, *tokenizer_, context));
  metrics_->SetDataCounts(data_.counts);
  control_->SetDataCounts(data_.counts);
  LogInfo("data read", {{"rows_used", data_.counts.used()},
                        {"skipped", data_.counts.skipped()},
                        {"dropped", data_.counts.dropped()},
                        {"truncated", data_.counts.truncated()}});
  source_ = data_.recorded.get();
  return absl::OkStatus();
}

absl::Status Learner::StartReferences() {
  v1::LearnerCheckpoint now;
  ROLLCALL_RETURN_IF_ERROR(trainer_->FillRecord(now));
  ROLLCALL_ASSIGN_OR_RETURN(
      std::unique_ptr<ReferenceStack> references,
      ReferenceStack::Start(
          config_,
          {.shape = {.vocab_size = static_cast<uint32_t>(trainer_->decoder().config().vocab_size),
                     .tokenizer_hash = identity_.tokenizer_hash},
           .numerics = now.numerics(),
           .manifest_hash = now.version().manifest_hash(),
           .step = trainer_->step()},
          control_));
  source_ = references->Prefetch(std::move(data_.recorded), config_.learner().steps());
  ReferenceStack& started = *references;
  {
    absl::MutexLock lock(&mutex_);
    references_ = std::move(references);
  }
  if (control_->interrupted()) {  // before there was anything to wake
    started.Interrupt(control_->failure().ok() ? absl::CancelledError("stopped")
                                               : control_->failure());
  }
  if (!data_.held_out_pairs) return absl::OkStatus();
  control_->SetPhase(v1::LEARNER_PHASE_WAITING, "the reference's log-probs of held-out rows");
  return started.Fill(*data_.held_out_pairs);
}

}  // namespace rollcall::learner
