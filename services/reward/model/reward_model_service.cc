#include "services/reward/model/reward_model_service.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/model/identity.h"
#include "common/text/tokenizer.h"
#include "common/wire/sha256.h"
#include "services/reward/model/decoder_scorer.h"
#include "services/reward/model/service.h"

namespace rollcall::reward {
namespace {

// Whether the model's tokenizer is the policy's, byte for byte. Where no policy is configured, or
// its folder is not on this machine, it is not known to be.
bool SpeaksPolicyTokens(const v1::RunConfig& config, const v1::ModelDescription& description) {
  if (config.model().path().empty() || description.tokenizer_hash().empty()) return false;
  const absl::StatusOr<std::string> policy = model::TokenizerHash(config.model().path());
  return policy.ok() && *policy == description.tokenizer_hash();
}

std::string VersionOf(const v1::ModelDescription& description,
                      const SequenceEncoderOptions& options) {
  return wire::ToHex(
             wire::Sha256Of(absl::StrCat(description.SerializeAsString(), ";",
                                         options.apply_chat_template, ";", options.policy_tokens)))
      .substr(0, 16);
}

class HostedRewardModel final : public rpc::HostedService {
 public:
  HostedRewardModel(const rpc::ServiceContext& context, v1::VerifierConfig verifier)
      : config_(context.config),
        verifier_(std::move(verifier)),
        progress_(context.progress),
        metrics_(context.metrics, "reward_model"),
        outcomes_(context.metrics, "rollcall_reward_model_samples_total",
                  "Samples by what became of them.", {}),
        queue_({.batch_tokens = verifier_.reward_model().batch_tokens(),
                .max_waiting_sequences = verifier_.reward_model().max_waiting_sequences()},
               Clock::Real()) {}

  std::vector<grpc::Service*> services() override { return {service_.get()}; }

  absl::Status Start() override {
    const v1::RewardModelVerifier& settings = verifier_.reward_model();
    const model::FrozenModelOptions options{.path = settings.path(),
                                            .dtype = config_.model().dtype(),
                                            .device = config_.model().device(),
                                            .threads = settings.threads(),
                                            .kernels = config_.kernels()};
    const absl::Time start = absl::Now();
    ROLLCALL_ASSIGN_OR_RETURN(auto tokenizer, text::Tokenizer::Load(settings.path()));
    ROLLCALL_ASSIGN_OR_RETURN(
        engine_, ModelEngine::Start([options] { return LoadDecoderScorer(options); }, &queue_,
                                    &metrics_, progress_));
    const v1::ModelDescription& description = engine_->description();
    const SequenceEncoderOptions encoding{.apply_chat_template = settings.apply_chat_template(),
                                          .policy_tokens = SpeaksPolicyTokens(config_, description),
                                          .vocab_size = description.vocab_size(),
                                          .context_length = description.context_length()};
    LogInfo("reward model loaded", {{"path", settings.path()},
                                    {"policy_tokens", encoding.policy_tokens},
                                    {"seconds", absl::Now() - start}});
    service_ = std::make_unique<RewardModelService>(
        ModelServiceOptions{.name = verifier_.name(),
                            .version = VersionOf(description, encoding),
                            .max_waiting_sequences = settings.max_waiting_sequences()},
        SequenceEncoder(std::move(tokenizer), encoding), &queue_, &metrics_, &outcomes_,
        Clock::Real());
    return absl::OkStatus();
  }

  void CloseIntake() override { queue_.Close(); }

  absl::Status Drain(absl::Time deadline) override {
    if (engine_ == nullptr || engine_->AwaitDrained(deadline)) return absl::OkStatus();
    queue_.Abandon();
    return absl::DeadlineExceededError("requests that still waited were refused");
  }

 private:
  const v1::RunConfig& config_;
  const v1::VerifierConfig verifier_;
  const std::shared_ptr<Progress> progress_;
  batching::BatchMetrics metrics_;
  OutcomeMetrics outcomes_;
  ModelQueue queue_;
  std::unique_ptr<ModelEngine> engine_;
  std::unique_ptr<RewardModelService> service_;
};

}  // namespace

absl::StatusOr<v1::VerifierConfig> FindRewardModel(const v1::RunConfig& config,
                                                   const std::string& name) {
  std::vector<std::string> names;
  std::optional<v1::VerifierConfig> found;
  for (const v1::VerifierConfig& verifier : config.reward().verifiers()) {
    if (!verifier.has_reward_model()) continue;
    names.push_back(verifier.name());
    if (name.empty() || verifier.name() == name) found = verifier;
  }
  if (names.empty()) {
    return absl::InvalidArgumentError("reward.verifiers: none of them is a reward_model");
  }
  if (!found || (name.empty() && names.size() > 1)) {
    return absl::InvalidArgumentError(absl::StrCat("--verifier: expected one of ",
                                                   absl::StrJoin(names, ", "), ", got ",
                                                   name.empty() ? "none" : name));
  }
  return *std::move(found);
}

absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeModelService(
    const rpc::ServiceContext& context, const std::string& name) {
  ROLLCALL_ASSIGN_OR_RETURN(v1::VerifierConfig verifier, FindRewardModel(context.config, name));
  return std::make_unique<HostedRewardModel>(context, std::move(verifier));
}

}  // namespace rollcall::reward
