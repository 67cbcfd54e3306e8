#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/config/reference.h"
#include "common/config/run_config.h"
#include "common/config/yaml.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"

namespace rollcall::cli {
namespace {

struct ConfigFlags {
  std::string config;
  std::vector<std::string> sets;
  std::string field;
  bool docs = false;
};

absl::Status ShowConfig(const ConfigFlags& flags) {
  if (flags.docs) {
    std::fputs(config::DocumentMarkdown(*v1::RunConfig::descriptor()).c_str(), stdout);
    return absl::OkStatus();
  }
  if (!flags.field.empty()) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string help,
                              config::FieldHelp(*v1::RunConfig::descriptor(), flags.field));
    std::printf("%s\n", help.c_str());
    return absl::OkStatus();
  }
  if (flags.config.empty()) {
    return absl::InvalidArgumentError("config: name a YAML file, or --docs, or --field a.b.c");
  }
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig config,
                            config::LoadRunConfig(flags.config, flags.sets));
  std::fputs(config::FormatYaml(config).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddConfigCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<ConfigFlags>();
  CLI::App* command = app.add_subcommand(
      "config", "Check a configuration and print it with every default filled in");
  command->add_option("config", flags->config, "YAML file of the run");
  command->add_option("--set", flags->sets, "Override a field; repeatable")
      ->allow_extra_args(false);
  command->add_option("--field", flags->field, "Explain one field, such as learner.optimizer.lr");
  command->add_flag("--docs", flags->docs,
                    "Print every field with default, range, unit and meaning, as Markdown");
  command->callback([flags, &exit_code] { exit_code = Report(ShowConfig(*flags)); });
}

}  // namespace rollcall::cli
