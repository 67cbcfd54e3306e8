#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/channel.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "services/learner/learner_metrics.h"
#include "services/learner/publish/published_versions.h"
#include "services/learner/publish/weight_publisher.h"
#include "services/learner/rollout/coordinator.h"
#include "services/learner/rollout/evaluator.h"
#include "services/learner/rollout/generator_pool.h"
#include "services/learner/rollout/group_runner.h"
#include "services/learner/rollout/ledger.h"
#include "services/learner/run_control.h"

namespace rollcall::learner {

// What the learner knows of itself when it begins to talk to the other services.
struct RolloutIdentity {
  VersionIdentity version;
  v1::NumericsFingerprint numerics;
  uint32_t vocab_size = 0;
};

// Everything of a learner that deals with generators, the reward service and references, wired
// together: the pool, the publisher, the runner, and on top of them the batch source and the
// evaluator. Made and used by the training thread; what other threads may call is said below.
class RolloutStack final : public GeneratorObserver {
 public:
  // Connects in the background and starts the threads. Whatever ends the run is told to `control`,
  // which must outlive this, as must `ledger`. INVALID_ARGUMENT: a malformed address, or none where
  // one is needed.
  static absl::StatusOr<std::unique_ptr<RolloutStack>> Start(
      const v1::RunConfig& config, const RolloutIdentity& identity,
      std::shared_ptr<const text::Tokenizer> tokenizer, Ledger* ledger, RunControl* control,
      LearnerMetrics* metrics);
  // Stops.
  ~RolloutStack() override;

  // Makes this version the one to sample from.
  void Publish(PreparedVersionPtr version);

  // Blocks until one generator serves the published version and those of reward and reference
  // services that the run needs answer, or rpc.connect_timeout: DEADLINE_EXCEEDED names who is missing. CANCELLED or the
  // failure when interrupted.
  absl::Status AwaitServices();

  // The source of training batches. `options` gives where to start; what the configuration decides
  // is filled in here.
  RolloutCoordinator* MakeCoordinator(CoordinatorOptions options, PromptFn prompts);
  Evaluator* MakeEvaluator(std::vector<v1::PromptRow> prompts);

  // Wakes Next and Run with `status`. Any thread.
  void Interrupt(const absl::Status& status);
  // Cancels what is in flight and joins the threads; afterwards the books are final.
  void Stop();

  const PublishedVersions& versions() const { return versions_; }

  // GeneratorObserver, on the publisher's threads.
  void OnServing(size_t generator, uint64_t step) override;
  void OnUnusable(size_t generator, const std::string& why) override;
  void OnFatal(const absl::Status& status) override;

 private:
  RolloutStack(const v1::RunConfig& config, RolloutIdentity identity,
               std::shared_ptr<const text::Tokenizer> tokenizer, Ledger* ledger,
               RunControl* control, LearnerMetrics* metrics);

  absl::Status Connect();
  absl::Status AwaitGenerators(absl::Time deadline);
  absl::Status AwaitReward(absl::Time deadline);
  // `manifest_hash`: of the references asked before, empty for the first; filled in.
  absl::Status AwaitReference(size_t index, absl::Time deadline, std::string* manifest_hash);
  void CountServing();
  GroupSpec SpecOf(uint32_t samples, float temperature) const;

  const v1::RunConfig config_;
  const RolloutIdentity identity_;
  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  Ledger* const ledger_;
  RunControl* const control_;
  LearnerMetrics* const metrics_;
  const bool with_reward_;
  const bool with_reference_;

  RolloutServices services_;
  std::vector<std::string> generator_addresses_;
  PublishedVersions versions_;
  std::unique_ptr<GeneratorPool> pool_;

  absl::Mutex mutex_;
  absl::Status interrupted_ ABSL_GUARDED_BY(mutex_);
  // Owned here, made once by the training thread; the pointers are read by Interrupt.
  std::unique_ptr<RolloutCoordinator> coordinator_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Evaluator> evaluator_ ABSL_GUARDED_BY(mutex_);

  // Last: their threads use everything above.
  std::unique_ptr<GroupRunner> runner_;
  std::unique_ptr<WeightPublisher> publisher_;
};

// As algorithm, learner and reference sections say: whether groups need the reference's log-probs.
bool NeedsReference(const v1::RunConfig& config);

}  // namespace rollcall::learner
