#include "services/learner/reference/log_prob_answer.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace rollcall::learner {

absl::Status CheckLogProbs(const v1::LogProbResponse& response, std::span<const size_t> tokens) {
  if (static_cast<size_t>(response.sequences_size()) != tokens.size()) {
    return absl::InternalError(
        absl::StrCat("sequences: must be ", tokens.size(), ", got ", response.sequences_size()));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto& logprobs = response.sequences(static_cast<int>(i)).logprobs();
    if (static_cast<size_t>(logprobs.size()) != tokens[i]) {
      return absl::InternalError(absl::StrCat("sequences[", i, "].logprobs: must be ", tokens[i],
                                              ", got ", logprobs.size()));
    }
    for (const float logprob : logprobs) {
      if (!std::isfinite(logprob) || logprob > 0) {
        return absl::InternalError(
            absl::StrCat("sequences[", i, "].logprobs: must be finite and <= 0, got ", logprob));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace rollcall::learner
