#include "services/reference/reference_service.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/base/clock.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/reference/engine/decoder_scorer.h"
#include "services/reference/service.h"

namespace rollcall::reference {
namespace {

class ReferenceService final : public rpc::HostedService {
 public:
  explicit ReferenceService(const rpc::ServiceContext& context)
      : config_(context.config),
        progress_(context.progress),
        metrics_(context.metrics, "reference"),
        queue_({.batch_tokens = config_.reference().batch_tokens(),
                .max_waiting_sequences = config_.reference().max_waiting_sequences()},
               Clock::Real()) {}

  std::vector<grpc::Service*> services() override { return {service_.get()}; }

  absl::Status Start() override {
    const model::FrozenModelOptions options{.path = config_.reference().model_path().empty()
                                                        ? config_.model().path()
                                                        : config_.reference().model_path(),
                                            .dtype = config_.model().dtype(),
                                            .device = config_.model().device(),
                                            .threads = config_.reference().threads(),
                                            .context_tokens = config_.model().context_tokens(),
                                            .kernels = config_.kernels()};
    const absl::Time start = absl::Now();
    ROLLCALL_ASSIGN_OR_RETURN(
        engine_, Engine::Start([options] { return LoadDecoderScorer(options); }, &queue_, &metrics_,
                               progress_));
    LogInfo("model loaded", {{"path", options.path}, {"seconds", absl::Now() - start}});
    service_ = std::make_unique<LogProbService>(engine_.get(), &queue_, &metrics_, Clock::Real());
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
  const std::shared_ptr<Progress> progress_;
  batching::BatchMetrics metrics_;
  BatchQueue queue_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<LogProbService> service_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeService(
    const rpc::ServiceContext& context) {
  return std::make_unique<ReferenceService>(context);
}

}  // namespace rollcall::reference
