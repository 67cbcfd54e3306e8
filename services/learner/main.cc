#include <CLI/CLI.hpp>

#include "common/rpc/service_main.h"
#include "services/learner/learner_service.h"

int main(int argc, char** argv) {
  bool linger = false;
  return rollcall::rpc::RunService(
      argc, argv,
      {.name = "learner",
       .description = "Trains a model (section `stage`) and serves rollcall.v1.Learner.",
       .role = rollcall::config::Role::kLearner,
       .create =
           [&linger](const rollcall::rpc::ServiceContext& context) {
             return rollcall::learner::MakeService(context, linger);
           },
       .add_flags =
           [&linger](CLI::App& app) {
             app.add_flag("--linger", linger,
                          "When the run is done, stay and answer about it until SIGTERM");
           }});
}
