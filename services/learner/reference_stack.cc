#include "services/learner/reference_stack.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "services/learner/publish/numerics.h"

namespace rollcall::learner {
namespace {

absl::StatusOr<std::vector<ReferencePeer>> ConnectAll(const v1::RunConfig& config) {
  if (config.reference().addresses().empty()) {
    return absl::InvalidArgumentError(
        "reference.addresses: the stage compares with a reference and needs at least one");
  }
  rpc::ChannelOptions options;
  ROLLCALL_ASSIGN_OR_RETURN(options.security, rpc::Security::FromConfig(config.security()));
  std::vector<ReferencePeer> peers;
  for (const std::string& address : config.reference().addresses()) {
    ReferencePeer& peer = peers.emplace_back();
    peer.address = address;
    ROLLCALL_ASSIGN_OR_RETURN(peer.channel, rpc::Connect(address, options));
  }
  return peers;
}

// Weights that moved since the run began and are the reference's, too, came from this run.
bool Follows(const v1::RunConfig& config, const TrainedPolicy& policy,
             const std::string& reference_hash) {
  return policy.step > 0 && config.learner().optimizer().lr() > 0 &&
         policy.manifest_hash == reference_hash;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReferenceStack>> ReferenceStack::Start(const v1::RunConfig& config,
                                                                      const TrainedPolicy& policy,
                                                                      RunControl* control) {
  ROLLCALL_ASSIGN_OR_RETURN(std::vector<ReferencePeer> peers, ConnectAll(config));
  const absl::Time deadline = absl::Now() + absl::Seconds(config.rpc().connect_timeout());
  v1::ModelDescription model;
  for (const ReferencePeer& peer : peers) {
    ROLLCALL_ASSIGN_OR_RETURN(const v1::ModelDescription description,
                              AwaitReference(peer, policy.shape, deadline, control));
    if (!model.manifest_hash().empty() && model.manifest_hash() != description.manifest_hash()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the reference at ", peer.address, " holds other weights than ", peers.front().address));
    }
    if (Follows(config, policy, description.manifest_hash())) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the reference at ", peer.address, " holds the policy's own weights after ", policy.step,
          " steps: it follows the policy, and every margin to it would be 0. Serve the model that "
          "the run started from (reference.model_path)"));
    }
    if (config.numerics() != v1::NUMERICS_FAST &&
        !SameNumerics(description.numerics(), policy.numerics)) {
      LogWarning(
          "the reference computes with other numerics than the policy: log-ratios begin near "
          "0 instead of at 0",
          {{"reference", Describe(description.numerics())}, {"policy", Describe(policy.numerics)}});
    }
    model = description;
    LogInfo("reference found", {{"address", peer.address}});
  }
  auto stack = std::unique_ptr<ReferenceStack>(new ReferenceStack());
  std::unique_ptr<ReferenceCache> cache;
  if (!config.preference().reference_cache().empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(
        cache, Annotate(ReferenceCache::Open(config.preference().reference_cache(), model,
                                             config.learner().rank()),
                        "preference.reference_cache"));
  }
  stack->client_ = std::make_unique<ReferenceClient>(
      std::move(peers), model.manifest_hash(),
      ReferenceClientOptions{.timeout = absl::Seconds(config.rpc().logprob_timeout()),
                             .max_attempts = config.learner().max_group_attempts(),
                             .stall_timeout = absl::Seconds(config.learner().stall_timeout())});
  stack->logprobs_ = std::make_unique<ReferenceLogprobs>(stack->client_.get(), std::move(cache));
  return stack;
}

BatchSource* ReferenceStack::Prefetch(std::unique_ptr<BatchSource> inner, uint64_t last_step) {
  ahead_ = std::make_unique<AheadSource>(
      std::move(inner), [this](TrainBatch& batch) { return logprobs_->Fill(batch); },
      [this] { client_->Cancel(); }, last_step);
  return ahead_.get();
}

void ReferenceStack::Interrupt(const absl::Status& status) {
  client_->Cancel();
  if (ahead_ != nullptr) ahead_->Stop(status);
}

}  // namespace rollcall::learner
