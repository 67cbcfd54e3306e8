#include <CLI/CLI.hpp>
#include <string>

#include "common/rpc/service_main.h"
#include "services/reward/compose/request.h"
#include "services/reward/model/reward_model_service.h"

int main(int argc, char** argv) {
  using rollcall::reward::FindRewardModel;
  std::string verifier;
  return rollcall::rpc::RunService(
      argc, argv,
      {.name = "reward-model",
       .description = "Scores completions with a sequence-classification model "
                      "(rollcall.v1.Verifier), for a reward service to call.",
       .role = rollcall::config::Role::kRewardModel,
       .create =
           [&verifier](const rollcall::rpc::ServiceContext& context) {
             return rollcall::reward::MakeModelService(context, verifier);
           },
       .max_message_bytes = rollcall::reward::kMaxRequestBytes,
       .add_flags =
           [&verifier](CLI::App& app) {
             app.add_option("--verifier", verifier,
                            "Name of the verifier in reward.verifiers whose model is served; "
                            "needed where there are several");
           },
       .endpoints =
           [&verifier](const rollcall::v1::RunConfig& config) {
             const auto found = FindRewardModel(config, verifier);
             if (!found.ok()) return rollcall::rpc::Endpoints{};
             return rollcall::rpc::Endpoints{found->reward_model().listen(),
                                             found->reward_model().metrics_listen()};
           }});
}
