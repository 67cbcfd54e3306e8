#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "rollcall/v1/logprob.pb.h"

namespace rollcall::learner {

// Whether a reference answered what it was asked: as many sequences as `tokens` has entries, each with
// that many log-probs, finite and not positive. INTERNAL names the field and the value.
absl::Status CheckLogProbs(const v1::LogProbResponse& response, std::span<const size_t> tokens);

}  // namespace rollcall::learner
