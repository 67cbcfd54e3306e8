#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/service_main.h"
#include "services/reward/compose/composition.h"
#include "services/reward/compose/request.h"
#include "services/reward/service.h"

namespace rollcall::reward {
namespace {

class HostedReward : public rpc::HostedService {
 public:
  HostedReward(std::unique_ptr<Composition> composition, metrics::Registry& registry)
      : composition_(std::move(composition)), service_(composition_.get(), registry) {}

  std::vector<grpc::Service*> services() override { return {&service_}; }
  absl::Status Start() override { return absl::OkStatus(); }
  void CloseIntake() override { service_.CloseIntake(); }
  absl::Status Drain(absl::Time deadline) override { return service_.AwaitIdle(deadline); }

 private:
  const std::unique_ptr<Composition> composition_;
  RewardService service_;
};

absl::StatusOr<std::shared_ptr<v1::Verifier::StubInterface>> ConnectVerifier(
    const std::string& address) {
  ROLLCALL_ASSIGN_OR_RETURN(auto channel,
                            rpc::Connect(address, {.max_receive_bytes = kMaxRequestBytes,
                                                   .max_send_bytes = kMaxRequestBytes}));
  return v1::Verifier::NewStub(channel);
}

absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeService(
    const rpc::ServiceContext& context) {
  ROLLCALL_ASSIGN_OR_RETURN(
      auto composition,
      Composition::Create(context.config.reward(), ConnectVerifier, context.metrics));
  return std::make_unique<HostedReward>(std::move(composition), context.metrics);
}

}  // namespace
}  // namespace rollcall::reward

int main(int argc, char** argv) {
  return rollcall::rpc::RunService(
      argc, argv,
      {.name = "reward",
       .description = "Scores completions: composes rules and remote verifiers by weight and gate.",
       .role = rollcall::config::Role::kReward,
       .create = rollcall::reward::MakeService,
       .max_message_bytes = rollcall::reward::kMaxRequestBytes});
}
