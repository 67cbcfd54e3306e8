#include "common/rpc/service_main.h"
#include "services/learner/learner_service.h"

int main(int argc, char** argv) {
  return rollcall::rpc::RunService(
      argc, argv,
      {.name = "learner",
       .description = "Trains a model (stages rl, sft, eval) and serves rollcall.v1.Learner.",
       .role = rollcall::config::Role::kLearner,
       .create = rollcall::learner::MakeService});
}
