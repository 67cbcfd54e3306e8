#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/config/run_config.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/explain/explain.h"

namespace rollcall::cli {
namespace {

struct ExplainFlags {
  std::string config;
  std::vector<std::string> sets;
  bool json = false;
};

absl::Status ExplainConfig(const ExplainFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig config,
                            config::LoadRunConfig(flags.config, flags.sets));
  const explain::Explanation explanation = explain::Explain(config);
  std::fputs(
      (flags.json ? explain::FormatJson(explanation) : explain::FormatText(explanation)).c_str(),
      stdout);
  return absl::OkStatus();
}

}  // namespace

void AddExplainConfigCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<ExplainFlags>();
  CLI::App* command = app.add_subcommand(
      "explain-config",
      "Say what a configuration will do: the objective with its numbers, what each mean divides "
      "by, batches and steps, models and memory, and combinations that train badly");
  command->add_option("config", flags->config, "YAML file of the run")->required();
  command->add_option("--set", flags->sets, "Override a field; repeatable")
      ->allow_extra_args(false);
  command->add_flag("--json", flags->json, "One JSON object instead of the text");
  command->footer("Nothing is started. Exit codes: 0 explained, 2 bad configuration.");
  command->callback([flags, &exit_code] { exit_code = Report(ExplainConfig(*flags)); });
}

}  // namespace rollcall::cli
