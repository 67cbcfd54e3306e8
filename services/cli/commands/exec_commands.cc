#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/train/local_services.h"

// Commands that are other binaries: this process becomes them.
namespace rollcall::cli {
namespace {

absl::Status Become(const std::string& binary, std::vector<std::string> arguments) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string folder, OwnFolder());
  const std::string path = absl::StrCat(folder, "/", binary);
  arguments.insert(arguments.begin(), path);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(path.c_str(), argv.data());
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot start; is it built?"));
}

// A subcommand whose arguments, --help included, all belong to the other binary.
CLI::App* AddPassThrough(CLI::App& app, const std::string& name, const std::string& description) {
  CLI::App* command = app.add_subcommand(name, description);
  command->set_help_flag();
  command->prefix_command();
  return command;
}

}  // namespace

void AddServeCommand(CLI::App& app, int& exit_code) {
  static constexpr std::array<const char*, 5> kServices = {"generator", "reward", "reward-model",
                                                           "reference", "learner"};
  CLI::App* serve = app.add_subcommand("serve", "Run one service in the foreground");
  serve->require_subcommand(1);
  for (const char* service : kServices) {
    CLI::App* command =
        AddPassThrough(*serve, service,
                       absl::StrCat("Run rollcall-", service, "; its own --help lists its flags"));
    command->callback([command, service, &exit_code] {
      exit_code = Report(Become(absl::StrCat("rollcall-", service), command->remaining()));
    });
  }
}

void AddModelCommands(CLI::App& app, int& exit_code) {
  static constexpr std::array<std::array<const char*, 2>, 4> kCommands = {
      {{"verify", "Compare this build with golden numbers of reference implementations"},
       {"inspect",
        "Describe a model folder: family, shapes, parameters, memory to serve and to train"},
       {"models", "List the model families of this build"},
       {"init", "Make a model folder with random weights from a config.json"}}};
  for (const auto& [name, description] : kCommands) {
    CLI::App* command = AddPassThrough(app, name, description);
    command->callback([command, name = std::string(name), &exit_code] {
      std::vector<std::string> arguments = command->remaining();
      arguments.insert(arguments.begin(), name);
      exit_code = Report(Become("rollcall-model", std::move(arguments)));
    });
  }
}

}  // namespace rollcall::cli
