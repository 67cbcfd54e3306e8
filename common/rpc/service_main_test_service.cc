// A service that does what a test tells it in reward.verifiers[0].name, to show what RunService()
// makes of it.

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/rpc/service_main.h"
#include "common/rpc/test_service.h"

namespace rollcall::rpc {
namespace {

class Hosted final : public HostedService {
 public:
  Hosted(std::string mode, const ServiceContext& context)
      : mode_(std::move(mode)), shutdown_(context.shutdown) {
    if (mode_ == "not_ready") context.report_health(false);
    service_.hold = mode_ == "hold";
  }

  std::vector<grpc::Service*> services() override { return {&service_}; }
  absl::Status Start() override {
    if (mode_ == "start_fails") return absl::InternalError("no weights");
    if (mode_ == "fails_later") shutdown_.Fail(absl::DataLossError("weights rotted"));
    if (mode_ == "finishes") shutdown_.Request("all done");
    return absl::OkStatus();
  }
  void CloseIntake() override {}
  absl::Status Drain(absl::Time) override {
    if (mode_ == "stuck") absl::Notification().WaitForNotification();
    if (mode_ == "drain_fails") return absl::InternalError("cannot flush");
    return absl::OkStatus();
  }

 private:
  const std::string mode_;
  Shutdown& shutdown_;
  TestService service_;
};

absl::StatusOr<std::unique_ptr<HostedService>> Make(const ServiceContext& context) {
  const std::string& mode = context.config.reward().verifiers(0).name();
  if (mode == "invalid") return absl::InvalidArgumentError("reward.verifiers: contradictory");
  return std::make_unique<Hosted>(mode, context);
}

}  // namespace
}  // namespace rollcall::rpc

int main(int argc, char** argv) {
  return rollcall::rpc::RunService(argc, argv,
                                   {.name = "reward",
                                    .description = "Does what its test says.",
                                    .role = rollcall::config::Role::kReward,
                                    .create = rollcall::rpc::Make});
}
