#include "services/learner/batching/batch.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace rollcall::learner {
namespace {

std::string Name(const TrainSequence& sequence) {
  return absl::StrCat("group ", sequence.group_id, " sample ", sequence.sample_index);
}

std::tuple<uint64_t, uint32_t> Key(const TrainSequence& sequence) {
  return {sequence.group_id, sequence.sample_index};
}

absl::Status CheckLogprobs(const TrainSequence& sequence, const std::vector<float>& logprobs,
                           const char* column, bool required) {
  if (logprobs.empty() && !required) return absl::OkStatus();
  if (logprobs.size() != sequence.token_ids.size()) {
    return absl::InvalidArgumentError(absl::StrCat(Name(sequence), ": ", column, " has ",
                                                   logprobs.size(), " entries for ",
                                                   sequence.token_ids.size(), " tokens"));
  }
  for (size_t i = 0; i < logprobs.size(); ++i) {
    if (sequence.loss_mask[i] == 0) continue;
    if (!std::isfinite(logprobs[i]) || logprobs[i] > 0) {
      return absl::InvalidArgumentError(absl::StrCat(Name(sequence), ": ", column, "[", i,
                                                     "] must be finite and at most 0, got ",
                                                     logprobs[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(const TrainSequence& sequence, uint32_t vocab_size) {
  if (sequence.token_ids.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(Name(sequence), ": has no tokens"));
  }
  if (sequence.loss_mask.size() != sequence.token_ids.size()) {
    return absl::InvalidArgumentError(absl::StrCat(Name(sequence), ": loss_mask has ",
                                                   sequence.loss_mask.size(), " entries for ",
                                                   sequence.token_ids.size(), " tokens"));
  }
  if (sequence.loss_mask[0] != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        Name(sequence), ": loss_mask[0] is set, but nothing predicts the first token"));
  }
  for (size_t i = 0; i < sequence.token_ids.size(); ++i) {
    if (sequence.token_ids[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(Name(sequence), ": token_ids[", i,
                                                     "] must be below ", vocab_size, ", got ",
                                                     sequence.token_ids[i]));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSequence(const TrainSequence& sequence, const BatchRequirements& requirements) {
  if (absl::Status status = CheckTokens(sequence, requirements.vocab_size); !status.ok()) {
    return status;
  }
  if (sequence.reward.has_value() && !std::isfinite(*sequence.reward)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Name(sequence), ": reward must be finite, got ", *sequence.reward));
  }
  // What has no reward stays out of the loss, so nothing more is asked of it.
  if (requirements.rollouts && !sequence.reward.has_value()) return absl::OkStatus();
  if (absl::Status status = CheckLogprobs(sequence, sequence.behavior_logprobs, "behavior_logprobs",
                                          requirements.rollouts);
      !status.ok()) {
    return status;
  }
  return CheckLogprobs(sequence, sequence.reference_logprobs, "reference_logprobs",
                       requirements.reference_logprobs);
}

absl::Status CheckTwos(const TrainBatch& batch) {
  if (batch.sequences.size() % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch: sequences come in twos, got ", batch.sequences.size()));
  }
  for (const TrainSequence& sequence : batch.sequences) {
    const std::vector<uint8_t>& only = sequence.likelihood_only;
    if (!only.empty() && only.size() != sequence.token_ids.size()) {
      return absl::InvalidArgumentError(absl::StrCat(Name(sequence), ": likelihood_only has ",
                                                     only.size(), " entries for ",
                                                     sequence.token_ids.size(), " tokens"));
    }
    bool compared = false;
    for (size_t t = 0; t < sequence.loss_mask.size() && !compared; ++t) {
      compared = sequence.loss_mask[t] != 0 && (only.empty() || only[t] == 0);
    }
    if (!compared) {
      return absl::InvalidArgumentError(
          absl::StrCat(Name(sequence), ": has no completion: none of its tokens is compared"));
    }
    if (!(sequence.preference >= 0 && sequence.preference <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Name(sequence), ": preference must be 0 to 1, got ", sequence.preference));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOrder(const TrainBatch& batch) {
  if (std::adjacent_find(batch.group_ids.begin(), batch.group_ids.end(), std::greater_equal<>()) !=
      batch.group_ids.end()) {
    return absl::InvalidArgumentError("batch: group_ids are not in ascending order");
  }
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const TrainSequence& sequence = batch.sequences[i];
    if (!std::binary_search(batch.group_ids.begin(), batch.group_ids.end(), sequence.group_id)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Name(sequence), ": its group is not among the batch's group_ids"));
    }
    if (i > 0 && Key(batch.sequences[i - 1]) >= Key(sequence)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Name(sequence), ": stands after ", Name(batch.sequences[i - 1]),
                       "; sequences must be unique and ordered by group and sample"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void OrderBatch(TrainBatch& batch) {
  std::sort(batch.group_ids.begin(), batch.group_ids.end());
  if (batch.group_ids.empty()) return;
  std::stable_sort(batch.sequences.begin(), batch.sequences.end(),
                   [](const auto& a, const auto& b) { return Key(a) < Key(b); });
}

absl::Status CheckBatch(const TrainBatch& batch, const BatchRequirements& requirements) {
  if (batch.sequences.empty()) return absl::InvalidArgumentError("batch: has no sequences");
  if (requirements.rollouts != !batch.group_ids.empty()) {
    return absl::InvalidArgumentError(requirements.rollouts
                                          ? "batch: rollouts need group_ids"
                                          : "batch: demonstrations have no group_ids");
  }
  if (requirements.rollouts) {
    if (absl::Status status = CheckOrder(batch); !status.ok()) return status;
  }
  for (const TrainSequence& sequence : batch.sequences) {
    if (absl::Status status = CheckSequence(sequence, requirements); !status.ok()) return status;
  }
  return requirements.twos ? CheckTwos(batch) : absl::OkStatus();
}

}  // namespace rollcall::learner
