#include "services/learner/rollout_stack.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/config/algorithm_presets.h"
#include "common/config/sampling_request.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_conversion.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "services/learner/service_wait.h"

namespace rollcall::learner {
namespace {

absl::Status CheckAddresses(const v1::RunConfig& config, bool with_reward, bool with_reference) {
  if (config.generator().addresses().empty()) {
    return absl::InvalidArgumentError("generator.addresses: needs at least one generator");
  }
  if (with_reward && config.reward().address().empty()) {
    return absl::InvalidArgumentError("reward.address: needs a reward service");
  }
  if (with_reference && config.reference().addresses().empty()) {
    return absl::InvalidArgumentError(
        "reference.addresses: the algorithm compares with a reference and needs at least one");
  }
  return absl::OkStatus();
}

}  // namespace

bool NeedsReference(const v1::RunConfig& config) { return config::NeedsReferenceService(config); }

absl::StatusOr<std::unique_ptr<RolloutStack>> RolloutStack::Start(
    const v1::RunConfig& config, const RolloutIdentity& identity,
    std::shared_ptr<const text::Tokenizer> tokenizer, Ledger* ledger, RunControl* control,
    LearnerMetrics* metrics) {
  auto stack = std::unique_ptr<RolloutStack>(
      new RolloutStack(config, identity, std::move(tokenizer), ledger, control, metrics));
  ROLLCALL_RETURN_IF_ERROR(stack->Connect());
  return stack;
}

RolloutStack::RolloutStack(const v1::RunConfig& config, RolloutIdentity identity,
                           std::shared_ptr<const text::Tokenizer> tokenizer, Ledger* ledger,
                           RunControl* control, LearnerMetrics* metrics)
    : config_(config),
      identity_(std::move(identity)),
      tokenizer_(std::move(tokenizer)),
      ledger_(ledger),
      control_(control),
      metrics_(metrics),
      with_reward_(config::NeedsRewardService(config)),
      with_reference_(NeedsReference(config)) {}

RolloutStack::~RolloutStack() { Stop(); }

absl::Status RolloutStack::Connect() {
  generator_addresses_ = {config_.generator().addresses().begin(),
                          config_.generator().addresses().end()};
  ROLLCALL_RETURN_IF_ERROR(CheckAddresses(config_, with_reward_, with_reference_));
  rpc::ChannelOptions channel;
  ROLLCALL_ASSIGN_OR_RETURN(channel.security, rpc::Security::FromConfig(config_.security()));
  for (const std::string& address : generator_addresses_) {
    ROLLCALL_ASSIGN_OR_RETURN(services_.generators.emplace_back(), rpc::Connect(address, channel));
  }
  if (with_reward_) {
    services_.reward_address = config_.reward().address();
    ROLLCALL_ASSIGN_OR_RETURN(services_.reward, rpc::Connect(services_.reward_address, channel));
  }
  if (with_reference_) {
    for (const std::string& address : config_.reference().addresses()) {
      services_.reference_addresses.push_back(address);
      ROLLCALL_ASSIGN_OR_RETURN(services_.references.emplace_back(),
                                rpc::Connect(address, channel));
    }
  }

  pool_ = std::make_unique<GeneratorPool>(generator_addresses_);
  const v1::RpcSection& rpc = config_.rpc();
  runner_ = std::make_unique<GroupRunner>(
      GroupRunnerOptions{.max_attempts = config_.learner().max_group_attempts(),
                         .vocab_size = identity_.vocab_size,
                         .generate_timeout = absl::Seconds(rpc.generate_timeout()),
                         .score_timeout = absl::Seconds(rpc.score_timeout()),
                         .logprob_timeout = absl::Seconds(rpc.logprob_timeout()),
                         .on_fault =
                             [this](const char* service, const absl::Status& status) {
                               metrics_->CountFault(service, status);
                             }},
      services_, pool_.get(), &versions_,
      [tokenizer = tokenizer_](std::span<const uint32_t> ids) {
        return tokenizer->Decode(ids, /*skip_special=*/true);
      },
      [this](size_t generator) {
        if (publisher_ != nullptr) publisher_->CheckSoon(generator);
      });
  pool_->OnServing([this] { runner_->Poke(); });

  PublisherOptions options;
  if (config_.stage() == v1::STAGE_RL && config_.numerics() != v1::NUMERICS_FAST) {
    options.required_numerics = identity_.numerics;
  }
  options.on_sent = [metrics = metrics_](absl::Duration took, uint64_t bytes) {
    metrics->weight_sync_seconds.Observe(absl::ToDoubleSeconds(took));
    metrics->weight_sync_bytes.Increment(static_cast<double>(bytes));
  };
  publisher_ =
      std::make_unique<WeightPublisher>(options, generator_addresses_, services_.generators, this);
  return absl::OkStatus();
}

void RolloutStack::Publish(PreparedVersionPtr version) {
  versions_.Add(version->version);
  publisher_->Publish(std::move(version));
  runner_->Poke();
}

void RolloutStack::OnServing(size_t generator, uint64_t step) {
  pool_->MarkServing(generator, step);
  CountServing();
}

void RolloutStack::OnUnusable(size_t generator, const std::string& why) {
  pool_->MarkUnusable(generator, why);
  CountServing();
}

void RolloutStack::CountServing() {
  const std::optional<v1::PolicyVersion> version = versions_.Current();
  metrics_->generators_serving.Set(
      version ? static_cast<double>(pool_->CountServing(version->step())) : 0);
}

void RolloutStack::OnFatal(const absl::Status& status) { control_->Fail(status); }

absl::Status RolloutStack::AwaitServices() {
  const absl::Time deadline = absl::Now() + absl::Seconds(config_.rpc().connect_timeout());
  if (with_reward_) ROLLCALL_RETURN_IF_ERROR(AwaitReward(deadline));
  std::string reference_hash;
  for (size_t i = 0; i < services_.references.size(); ++i) {
    ROLLCALL_RETURN_IF_ERROR(AwaitReference(i, deadline, &reference_hash));
  }
  runner_->PinReference(reference_hash);
  return AwaitGenerators(deadline);
}

absl::Status RolloutStack::AwaitReward(absl::Time deadline) {
  control_->SetPhase(v1::LEARNER_PHASE_WAITING,
                     absl::StrCat("the reward service at ", services_.reward_address));
  const auto stub = v1::Verifier::NewStub(services_.reward);
  v1::VerifierDescription description;
  ROLLCALL_RETURN_IF_ERROR(
      AwaitAnswer(absl::StrCat("the reward service at ", services_.reward_address), deadline,
                  *control_, [&](grpc::ClientContext& context) {
                    return stub->Describe(&context, v1::DescribeRequest(), &description);
                  }));
  LogInfo("reward service found", {{"address", services_.reward_address},
                                   {"name", description.name()},
                                   {"version", description.version()}});
  return absl::OkStatus();
}

absl::Status RolloutStack::AwaitReference(size_t index, absl::Time deadline,
                                          std::string* manifest_hash) {
  ROLLCALL_ASSIGN_OR_RETURN(
      const v1::ModelDescription description,
      learner::AwaitReference(
          {.address = services_.reference_addresses[index], .channel = services_.references[index]},
          {.vocab_size = identity_.vocab_size, .tokenizer_hash = identity_.version.tokenizer_hash},
          deadline, control_));
  if (!manifest_hash->empty() && *manifest_hash != description.manifest_hash()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the reference at ", services_.reference_addresses[index],
                     " holds other weights than ", services_.reference_addresses.front()));
  }
  *manifest_hash = description.manifest_hash();
  return absl::OkStatus();
}

absl::Status RolloutStack::AwaitGenerators(absl::Time deadline) {
  const std::optional<v1::PolicyVersion> version = versions_.Current();
  if (!version) return absl::InternalError("no version was published");
  while (
      !pool_->AwaitServing(version->step(), std::min(deadline, absl::Now() + kServiceLookAround))) {
    const std::string missing = pool_->DescribeMissing(version->step());
    control_->SetPhase(v1::LEARNER_PHASE_WAITING, absl::StrCat("a generator: ", missing));
    if (control_->interrupted()) {
      return control_->failure().ok() ? absl::CancelledError("stopped") : control_->failure();
    }
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("no generator came up within rpc.connect_timeout: ", missing));
    }
  }
  return absl::OkStatus();
}

GroupSpec RolloutStack::SpecOf(uint32_t samples, float temperature) const {
  GroupSpec spec;
  spec.run_seed = config_.seed();
  spec.with_score = with_reward_;
  spec.num_samples = samples;
  spec.sampling = config::SamplingParamsOf(config_.sampling());
  spec.sampling.set_temperature(temperature);
  spec.stop = config::StopConditionsOf(config_.sampling());
  return spec;
}

RolloutCoordinator* RolloutStack::MakeCoordinator(CoordinatorOptions options, PromptFn prompts) {
  const v1::LearnerSection& learner = config_.learner();
  options.run_id = identity_.version.run_id;
  options.lineage = identity_.version.lineage;
  options.group =
      SpecOf(config_.algorithm().samples_per_prompt(), config_.sampling().temperature());
  const v1::AlgorithmSection& algorithm = config_.algorithm();
  options.group.min_valid_samples =
      std::min(algorithm.min_valid_samples(), algorithm.samples_per_prompt());
  options.dynamic_sampling = algorithm.dynamic_sampling();
  options.filter_metric = algorithm.dynamic_sampling_metric();
  options.max_sampling_rounds = algorithm.max_sampling_rounds();
  options.greedy_baseline = algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_GREEDY;
  options.group.with_reference = with_reference_;
  options.total_steps = learner.steps();
  options.prompts_per_step = learner.prompts_per_step();
  options.max_staleness = learner.max_staleness();
  options.stall_timeout = absl::Seconds(learner.stall_timeout());
  absl::MutexLock lock(&mutex_);
  coordinator_ = std::make_unique<RolloutCoordinator>(std::move(options), std::move(prompts),
                                                      runner_.get(), &versions_, ledger_);
  if (!interrupted_.ok()) coordinator_->Stop(interrupted_);
  return coordinator_.get();
}

Evaluator* RolloutStack::MakeEvaluator(std::vector<v1::PromptRow> prompts) {
  EvaluatorOptions options;
  options.run_id = identity_.version.run_id;
  options.lineage = identity_.version.lineage;
  options.group = SpecOf(config_.evaluation().samples_per_prompt(),
                         config_.evaluation().has_temperature() ? config_.evaluation().temperature()
                                                                : config_.sampling().temperature());
  // How far the student still is from its teacher.
  options.group.with_reference =
      with_reference_ && config_.algorithm().preset() == v1::ALGORITHM_PRESET_DISTILLATION;
  options.stall_timeout = absl::Seconds(config_.learner().stall_timeout());
  absl::MutexLock lock(&mutex_);
  evaluator_ =
      std::make_unique<Evaluator>(std::move(options), std::move(prompts), runner_.get(), ledger_);
  if (!interrupted_.ok()) evaluator_->Stop(interrupted_);
  return evaluator_.get();
}

void RolloutStack::Interrupt(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  interrupted_.Update(status);
  // Both only set a flag.
  if (coordinator_ != nullptr) coordinator_->Stop(status);
  if (evaluator_ != nullptr) evaluator_->Stop(status);
}

void RolloutStack::Stop() {
  if (publisher_ != nullptr) publisher_->Stop();
  if (runner_ != nullptr) runner_->Stop();
}

}  // namespace rollcall::learner
