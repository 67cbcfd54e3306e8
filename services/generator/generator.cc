#include "services/generator/generator.h"

#include <optional>
#include <utility>
#include <vector>

#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/generator/engine/engine.h"
#include "services/generator/generator_service.h"
#include "services/generator/model_loading.h"
#include "services/generator/weights_service.h"

namespace rollcall::generator {
namespace {

Engine::OnWeightUpdate OnWeightUpdateOf(const v1::GeneratorSection& section) {
  switch (section.on_weight_update()) {
    case v1::WEIGHT_UPDATE_KEEP:
      return Engine::OnWeightUpdate::kKeep;
    case v1::WEIGHT_UPDATE_DRAIN:
      return Engine::OnWeightUpdate::kDrain;
    default:
      return Engine::OnWeightUpdate::kRecompute;
  }
}

class Generator final : public rpc::HostedService {
 public:
  explicit Generator(const rpc::ServiceContext& context)
      : config_(context.config),
        report_health_(context.report_health),
        progress_(context.progress),
        metrics_(context.metrics) {}

  absl::Status Start() override {
    ROLLCALL_ASSIGN_OR_RETURN(LoadedModel model, LoadModel(config_));
    const bool serving = model.version.has_value();
    report_health_(serving);
    LogInfo(serving ? "model loaded" : "waiting for weights",
            {{"path", config_.model().path()},
             {"vocabulary", model.limits.vocab_size},
             {"context", model.limits.context_length},
             {"arithmetic", model.numerics.arithmetic()},
             {"dtype", model.numerics.dtype()}});
    staging_.emplace(std::move(model.layout), model.version);
    engine_.emplace(Engine::Options{.scheduler = model.scheduler,
                                    .on_weight_update = OnWeightUpdateOf(config_.generator()),
                                    .prefix_cache = config_.generator().prefix_cache(),
                                    .version = model.version,
                                    .progress = progress_},
                    std::move(model.runner), std::move(model.tokenizer), &metrics_);
    generate_.emplace(&*engine_, model.limits, model.numerics, &metrics_);
    weights_.emplace(&*staging_, &*engine_, model.limits, model.numerics, report_health_);
    return absl::OkStatus();
  }

  std::vector<grpc::Service*> services() override { return {&*generate_, &*weights_}; }

  void CloseIntake() override { engine_->CloseIntake(); }

  absl::Status Drain(absl::Time deadline) override {
    const bool drained = engine_->Drain(deadline);
    engine_->Stop();
    if (drained) return absl::OkStatus();
    return absl::DeadlineExceededError("completions that were being made were cut off");
  }

 private:
  const v1::RunConfig& config_;
  const rpc::HealthReporter report_health_;
  const std::shared_ptr<Progress> progress_;
  EngineMetrics metrics_;
  // Set by Start; destroyed from the last to the first.
  std::optional<WeightStaging> staging_;
  std::optional<Engine> engine_;
  std::optional<GeneratorService> generate_;
  std::optional<WeightsService> weights_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeGenerator(
    const rpc::ServiceContext& context) {
  ROLLCALL_RETURN_IF_ERROR(CheckConfig(context.config));
  return std::make_unique<Generator>(context);
}

}  // namespace rollcall::generator
