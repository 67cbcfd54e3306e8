#pragma once

#include <CLI/CLI.hpp>

namespace rollcall::cli {

// The subcommands of `rollcall`. Each function adds one to `app`; when it is chosen its callback
// does the work and puts the process's exit code (common/base/shutdown.h) into `exit_code`, which
// outlives the parse.
void AddTrainCommand(CLI::App& app, int& exit_code);
void AddUpCommand(CLI::App& app, int& exit_code);
void AddEvalCommand(CLI::App& app, int& exit_code);
void AddDemoCommand(CLI::App& app, int& exit_code);
void AddServeCommand(CLI::App& app, int& exit_code);
void AddGenerateCommand(CLI::App& app, int& exit_code);
void AddLogProbsCommand(CLI::App& app, int& exit_code);
void AddTokenizeCommand(CLI::App& app, int& exit_code);
void AddChatTemplateCommand(CLI::App& app, int& exit_code);
void AddConfigCommand(CLI::App& app, int& exit_code);
void AddExplainConfigCommand(CLI::App& app, int& exit_code);
void AddStatusCommand(CLI::App& app, int& exit_code);
void AddCertsCommand(CLI::App& app, int& exit_code);
void AddDeployCommand(CLI::App& app, int& exit_code);
void AddRolloutsCommand(CLI::App& app, int& exit_code);
void AddHarvestCommand(CLI::App& app, int& exit_code);
// verify, inspect and init, which live in the binary rollcall-model: they need the model, the
// others start faster without.
void AddModelCommands(CLI::App& app, int& exit_code);

}  // namespace rollcall::cli
