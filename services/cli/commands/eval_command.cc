#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/config/run_config.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/train/session.h"

namespace rollcall::cli {
namespace {

struct EvalFlags {
  std::string config;
  std::string model;
  std::vector<std::string> sets;
  bool json = false;
};

absl::Status Evaluate(const EvalFlags& flags) {
  std::vector<std::string> sets = flags.sets;
  sets.push_back("stage=eval");
  if (!flags.model.empty()) sets.push_back("model.path=" + flags.model);
  ROLLCALL_ASSIGN_OR_RETURN(v1::RunConfig config, config::LoadRunConfig(flags.config, sets));
  config.set_name(absl::StrCat(config.name(), "-eval"));

  std::map<std::string, double> values;
  SessionOptions options{.quiet = flags.json, .label = "eval  "};
  options.on_metrics = [&](const v1::StepMetrics& metrics) {
    for (const auto& [name, value] : metrics.values()) {
      if (absl::StartsWith(name, "eval/")) values[name] = value;
    }
  };
  Shutdown shutdown;
  ROLLCALL_ASSIGN_OR_RETURN(const SessionResult result, RunLocally(config, options, shutdown));
  if (result.interrupted) return absl::CancelledError("interrupted");
  if (flags.json) {
    std::printf("%s\n", nlohmann::json(values).dump().c_str());
    return absl::OkStatus();
  }
  for (const auto& [name, value] : values) std::printf("%-32s %.6g\n", name.c_str(), value);
  std::printf("every sample: rollcall rollouts %s --purpose evaluation\n", result.run_dir.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand(
      "eval", "Score a model on a configuration's held-out prompts; trains nothing");
  command
      ->add_option("config", flags->config,
                   "YAML file of the run: data.evaluation, reward, sampling, evaluation")
      ->required();
  command->add_option("--model", flags->model,
                      "Hugging Face folder to score instead of model.path");
  command->add_option("--set", flags->sets, "Override a field; repeatable")
      ->allow_extra_args(false);
  command->add_flag("--json", flags->json, "Print one JSON object and nothing else");
  command->callback([flags, &exit_code] { exit_code = Report(Evaluate(*flags)); });
}

}  // namespace rollcall::cli
