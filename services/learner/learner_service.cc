#include "services/learner/learner_service.h"

#include <thread>
#include <utility>

#include "services/learner/learner.h"
#include "services/learner/service.h"

namespace rollcall::learner {
namespace {

class LearnerService final : public rpc::HostedService {
 public:
  explicit LearnerService(const rpc::ServiceContext& context)
      : shutdown_(context.shutdown), metrics_(context.metrics), rpc_(&control_) {
    learner_ = std::make_unique<Learner>(
        context.config, &metrics_, &control_,
        [this](std::shared_ptr<MetricsLog> log) { rpc_.SetMetricsLog(std::move(log)); });
  }
  ~LearnerService() override {
    if (thread_.joinable()) thread_.join();
  }

  std::vector<grpc::Service*> services() override { return {&rpc_}; }

  absl::Status Start() override {
    // The training thread loads the model itself, since it owns it; GetStatus says how far it is.
    thread_ = std::thread([this] {
      const absl::Status status = learner_->Run();
      if (status.ok()) {
        shutdown_.Request("the run is over");
      } else {
        shutdown_.Fail(status);
      }
    });
    return absl::OkStatus();
  }

  void CloseIntake() override { control_.Stop(shutdown_.reason()); }

  // Waits for the step in progress and its checkpoint however long they take, so that a stopped run
  // never loses a step; a second signal is the way out.
  absl::Status Drain(absl::Time) override {
    if (thread_.joinable()) thread_.join();
    return absl::OkStatus();
  }

 private:
  Shutdown& shutdown_;
  LearnerMetrics metrics_;
  RunControl control_;
  LearnerRpcService rpc_;
  std::unique_ptr<Learner> learner_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeService(
    const rpc::ServiceContext& context) {
  return std::make_unique<LearnerService>(context);
}

}  // namespace rollcall::learner
