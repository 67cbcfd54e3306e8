#include "common/rpc/service_main.h"
#include "services/generator/generator.h"

int main(int argc, char** argv) {
  return rollcall::rpc::RunService(
      argc, argv,
      {.name = "generator",
       .description = "Samples completions of prompts, with the weights that a learner pushes or "
                      "those of a Hugging Face folder.",
       .role = rollcall::config::Role::kGenerator,
       .create = rollcall::generator::MakeGenerator});
}
