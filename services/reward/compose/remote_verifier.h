#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "services/reward/compose/retry_timer.h"
#include "services/reward/compose/verifier.h"
#include "services/reward/reward_metrics.h"

namespace rollcall::reward {

struct RemoteOptions {
  std::string name;
  std::string address;     // for messages
  absl::Duration timeout;  // of one try
  uint32_t retries = 0;    // further tries after a passing fault
};

// What to do after a try. Pure.
struct RetryDecision {
  bool again = false;
  absl::Time at;  // when, if again
};

// Another try follows a passing fault (UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED or
// CANCELLED of the call, or `retry` outcomes) while tries are left and it can start before
// `deadline`. `attempt` is the number of the try that ended, from 1; `passing` whether it ended in
// a passing fault.
RetryDecision DecideRetry(bool passing, uint32_t attempt, uint32_t retries, uint64_t seed,
                          absl::Time now, absl::Time deadline);

// Any process that serves rollcall.v1.Verifier. A failing call gives every sample a fault, never a
// score: `retry` when the last try failed in passing, else `error`. Groups in which a sample was
// answered `retry` are asked again, whole and alone, under another idempotency key.
class RemoteVerifier : public Verifier {
 public:
  // `timer` and `metrics` must outlive the verifier and its calls.
  RemoteVerifier(RemoteOptions options, std::shared_ptr<v1::Verifier::StubInterface> stub,
                 RetryTimer* timer, VerifierMetrics* metrics);

  Cancel Score(const v1::ScoreRequest& request, absl::Time deadline, Done done) override;
  Cancel Describe(absl::Time deadline, DescribeDone done) override;

 private:
  const std::shared_ptr<const RemoteOptions> options_;
  const std::shared_ptr<v1::Verifier::StubInterface> stub_;
  RetryTimer* const timer_;
  VerifierMetrics* const metrics_;
};

}  // namespace rollcall::reward
