#include <CLI/CLI.hpp>
#include <cstdlib>

#include "common/base/shutdown.h"
#include "services/cli/commands/commands.h"

int main(int argc, char** argv) {
  // For the services started from here: by default OpenMP's threads spin for 3 ms after every
  // parallel region, and the processes of a local run share the cores. Measured on two busy cores:
  // decoding 50 times slower than when they sleep.
  setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
  CLI::App app{"Rollcall: online reinforcement learning of language models, as services.",
               "rollcall"};
  app.set_version_flag("--version", "rollcall " ROLLCALL_VERSION);
  app.require_subcommand(1);
  int exit_code = 0;
  rollcall::cli::AddDemoCommand(app, exit_code);
  rollcall::cli::AddTrainCommand(app, exit_code);
  rollcall::cli::AddUpCommand(app, exit_code);
  rollcall::cli::AddEvalCommand(app, exit_code);
  rollcall::cli::AddGenerateCommand(app, exit_code);
  rollcall::cli::AddLogProbsCommand(app, exit_code);
  rollcall::cli::AddTokenizeCommand(app, exit_code);
  rollcall::cli::AddChatTemplateCommand(app, exit_code);
  rollcall::cli::AddServeCommand(app, exit_code);
  rollcall::cli::AddStatusCommand(app, exit_code);
  rollcall::cli::AddRolloutsCommand(app, exit_code);
  rollcall::cli::AddHarvestCommand(app, exit_code);
  rollcall::cli::AddConfigCommand(app, exit_code);
  rollcall::cli::AddExplainConfigCommand(app, exit_code);
  rollcall::cli::AddCertsCommand(app, exit_code);
  rollcall::cli::AddDeployCommand(app, exit_code);
  rollcall::cli::AddModelCommands(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? rollcall::kExitClean : rollcall::kExitUsage;
  }
  return exit_code;
}
