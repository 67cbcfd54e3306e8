#include <grpcpp/channel.h>

#include <memory>
#include <set>
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

std::set<std::string> PlaintextAddresses(const v1::RewardSection& config) {
  std::set<std::string> addresses;
  for (const v1::VerifierConfig& verifier : config.verifiers()) {
    if (verifier.remote().plaintext()) addresses.insert(verifier.remote().address());
  }
  return addresses;
}

absl::StatusOr<std::unique_ptr<rpc::HostedService>> MakeService(
    const rpc::ServiceContext& context) {
  const auto connect = [security = context.security,
                        plaintext =
                            PlaintextAddresses(context.config.reward())](const std::string& address)
      -> absl::StatusOr<std::shared_ptr<v1::Verifier::StubInterface>> {
    rpc::Security own = security;
    if (plaintext.count(address) > 0) own.identity = nullptr;
    ROLLCALL_ASSIGN_OR_RETURN(auto channel,
                              rpc::Connect(address, {.security = own,
                                                     .max_receive_bytes = kMaxRequestBytes,
                                                     .max_send_bytes = kMaxRequestBytes}));
    return v1::Verifier::NewStub(channel);
  };
  ROLLCALL_ASSIGN_OR_RETURN(auto composition,
                            Composition::Create(context.config.reward(), connect, context.metrics));
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
