#pragma once

#include <functional>
#include <memory>

#include "absl/time/time.h"
#include "rollcall/v1/generator.grpc.pb.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "services/learner/rollout/retry.h"

namespace rollcall::learner {

// Asynchronous calls on gRPC's callback API. Every function returns at once; the callbacks run on
// gRPC's threads, `done` exactly once and last. Score and log-prob calls wait for the connection
// within their timeout, so that a service that restarts costs time and no attempt.

// Ends the call early; its `done` then says CANCELLED. Any thread, any number of times, also after
// the end.
using CancelCall = std::function<void()>;

// `on_message` returns false to refuse a message: the stream is cancelled and nothing more is
// delivered.
CancelCall StartGenerate(v1::Generator::Stub& stub, v1::GenerateRequest request,
                         absl::Duration timeout,
                         std::function<bool(const v1::GenerateResponse&)> on_message,
                         std::function<void(CallOutcome)> done);

// Sets request.deadline_seconds to `timeout`.
CancelCall StartScore(v1::Verifier::Stub& stub, v1::ScoreRequest request, absl::Duration timeout,
                      std::function<void(CallOutcome, v1::ScoreResponse)> done);

CancelCall StartLogProbs(v1::LogProb::Stub& stub, v1::LogProbRequest request,
                         absl::Duration timeout,
                         std::function<void(CallOutcome, v1::LogProbResponse)> done);

}  // namespace rollcall::learner
