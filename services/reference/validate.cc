#include "services/reference/validate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::reference {
namespace {

absl::StatusOr<SequenceToScore> ParseSequence(const v1::TokenSequence& sequence, int index,
                                              const ModelLimits& limits) {
  const std::string field = absl::StrCat("sequences[", index, "]");
  const auto length = static_cast<uint32_t>(sequence.token_ids_size());
  if (length < 2 || length > limits.context_length) {
    return absl::InvalidArgumentError(absl::StrCat(field, ".token_ids: must hold 2 to ",
                                                   limits.context_length, " tokens, got ", length));
  }
  for (uint32_t i = 0; i < length; ++i) {
    if (sequence.token_ids(i) >= limits.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(field, ".token_ids[", i, "]: must be < ",
                                                     limits.vocab_size, ", got ",
                                                     sequence.token_ids(i)));
    }
  }
  const uint32_t score_from = sequence.score_from() == 0 ? 1 : sequence.score_from();
  if (score_from >= length) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ".score_from: must be 1 to ", length - 1, ", got ", score_from));
  }
  return SequenceToScore{{sequence.token_ids().begin(), sequence.token_ids().end()}, score_from};
}

}  // namespace

absl::StatusOr<ScoreJobPtr> ParseRequest(const v1::LogProbRequest& request,
                                         const ModelLimits& limits) {
  if (request.sequences_size() < 1 || request.sequences_size() > kMaxSequencesPerRequest) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sequences: must be 1 to ", kMaxSequencesPerRequest, ", got ", request.sequences_size()));
  }
  if (request.has_temperature() &&
      (!std::isfinite(request.temperature()) || request.temperature() <= 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature: must be > 0 and finite, got ", request.temperature()));
  }
  auto job = std::make_shared<ScoreJob>();
  job->mode.temperature = request.has_temperature() ? request.temperature() : 1.0f;
  job->mode.with_entropy = request.with_entropy();
  job->sequences.reserve(request.sequences_size());
  for (int i = 0; i < request.sequences_size(); ++i) {
    ROLLCALL_ASSIGN_OR_RETURN(SequenceToScore sequence,
                              ParseSequence(request.sequences(i), i, limits));
    job->sequences.push_back(std::move(sequence));
  }
  return job;
}

}  // namespace rollcall::reference
