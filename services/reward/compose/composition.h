#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/metrics/registry.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "services/reward/compose/compose.h"
#include "services/reward/compose/retry_timer.h"
#include "services/reward/compose/verifier.h"
#include "services/reward/reward_metrics.h"

namespace rollcall::reward {

// The verifiers of a configuration and how their scores become one. Thread-safe.
class Composition {
 public:
  // How a remote verifier is reached; called once for each, must not block on it.
  using Connect = std::function<absl::StatusOr<std::shared_ptr<v1::Verifier::StubInterface>>(
      const std::string& address)>;
  using Done = std::function<void(std::vector<v1::GroupResult>)>;
  using DescribeDone = std::function<void(absl::StatusOr<v1::VerifierDescription>)>;

  // INVALID_ARGUMENT names the verifier's field. `registry` and `clock` must outlive the
  // composition.
  static absl::StatusOr<std::unique_ptr<Composition>> Create(const v1::RewardSection& config,
                                                             const Connect& connect,
                                                             metrics::Registry& registry,
                                                             Clock* clock = Clock::Real());
  // No call may be under way.
  ~Composition();

  // As Verifier::Score: runs the rules on the calling thread while the remote verifiers work.
  // `request` has passed CheckScoreRequest.
  Verifier::Cancel Score(const v1::ScoreRequest& request, absl::Time deadline, Done done);

  // The composition as one verifier. Its version covers the configuration and every remote
  // verifier's version; UNAVAILABLE while one of those does not answer.
  Verifier::Cancel Describe(absl::Time deadline, DescribeDone done);

  Clock* clock() const { return clock_; }

 private:
  Composition(const v1::RewardSection& config, Clock* clock);

  v1::VerifierDescription ComposeDescription(
      std::span<const v1::VerifierDescription> descriptions) const;

  Clock* const clock_;
  const std::string fingerprint_;  // of the configuration
  std::vector<RewardTerm> terms_;
  std::vector<std::unique_ptr<VerifierMetrics>> metrics_;
  RetryTimer timer_;
  std::vector<std::unique_ptr<Verifier>> verifiers_;  // parallel to terms_
  std::vector<size_t> start_order_;                   // of verifiers_
};

}  // namespace rollcall::reward
