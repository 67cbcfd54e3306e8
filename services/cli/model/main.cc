#include <iostream>
#include <map>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "common/base/build_info.h"
#include "common/base/shutdown.h"
#include "services/cli/inspect/inspect.h"
#include "services/cli/model/init_model.h"
#include "services/cli/model/list_models.h"
#include "services/cli/verify/verify.h"

// rollcall-model: the commands of `rollcall` that load a model into their own process. `rollcall`
// becomes this binary for them and itself starts without LibTorch.
namespace {

using Command = int (*)(std::span<const std::string>, std::ostream&, std::ostream&);

const std::map<std::string, Command>& Commands() {
  static const std::map<std::string, Command> commands = {
      {"init", rollcall::cli::RunInit},
      {"inspect", rollcall::inspect::RunInspect},
      {"models", rollcall::cli::RunModels},
      {"verify", rollcall::verify::RunVerify}};
  return commands;
}

int Usage() {
  std::cerr << "usage: rollcall-model COMMAND …, where COMMAND is one of";
  for (const auto& [name, command] : Commands()) std::cerr << " " << name;
  std::cerr << "; each has --help\n";
  return rollcall::kExitUsage;
}

int TellVersion() {
  std::cout << "rollcall-model " << rollcall::Version() << " (" << rollcall::BuildType() << ")\n";
  return rollcall::kExitClean;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && arguments[0] == "--version") return TellVersion();
  const auto command = arguments.empty() ? Commands().end() : Commands().find(arguments[0]);
  if (command == Commands().end()) return Usage();
  return command->second(std::span(arguments).subspan(1), std::cout, std::cerr);
}
