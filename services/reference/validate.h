#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/logprob.pb.h"
#include "services/reference/score_job.h"

namespace rollcall::reference {

// What a request is checked against.
struct ModelLimits {
  uint32_t vocab_size = 0;
  uint32_t context_length = 0;
};

// Most sequences in one request (logprob.proto).
inline constexpr int kMaxSequencesPerRequest = 1024;

// The job that `request` asks for, without deadline and callback. INVALID_ARGUMENT names the first
// field that is out of range, such as "sequences[3].token_ids[7]".
absl::StatusOr<ScoreJobPtr> ParseRequest(const v1::LogProbRequest& request,
                                         const ModelLimits& limits);

}  // namespace rollcall::reference
