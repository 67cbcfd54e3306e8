#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/config/run_config.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/eval/model_evaluation.h"
#include "services/cli/eval/verifier_spec.h"
#include "services/cli/train/session.h"

namespace rollcall::cli {
namespace {

struct EvalFlags {
  std::string target;  // a configuration or a model folder
  std::string model;
  std::string adapter;
  std::vector<std::string> data;
  std::vector<std::string> verifiers;
  std::vector<std::string> sets;
  std::optional<uint32_t> samples;
  std::optional<double> threshold;
  std::string out;
  bool json = false;
};

// A run's configuration: through the learner, as the run itself evaluates.
absl::Status EvaluateConfiguration(const EvalFlags& flags) {
  if (!flags.data.empty() || !flags.verifiers.empty() || !flags.out.empty() || flags.threshold) {
    return absl::InvalidArgumentError(
        absl::StrCat("--data, --verifier, --threshold and --out are for a model folder; ",
                     flags.target, " is no folder and is read as a run's configuration"));
  }
  std::vector<std::string> sets = flags.sets;
  sets.push_back("stage=eval");
  if (!flags.model.empty()) sets.push_back("model.path=" + flags.model);
  if (!flags.adapter.empty()) sets.push_back("model.lora.path=" + flags.adapter);
  if (flags.samples) sets.push_back(absl::StrCat("evaluation.samples_per_prompt=", *flags.samples));
  ROLLCALL_ASSIGN_OR_RETURN(v1::RunConfig config, config::LoadRunConfig(flags.target, sets));
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

absl::StatusOr<v1::RunConfig> ModelConfiguration(const EvalFlags& flags) {
  if (!flags.model.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model is for a run's configuration; ", flags.target, " is a model folder"));
  }
  std::vector<std::string> sets = {"stage=eval", absl::StrCat("model.path=", flags.target)};
  if (!flags.adapter.empty()) sets.push_back("model.lora.path=" + flags.adapter);
  for (size_t i = 0; i < flags.data.size(); ++i) {
    sets.push_back(absl::StrCat("data.evaluation[", i, "].path=", flags.data[i]));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> verifiers,
                            VerifierOverrides(flags.verifiers));
  sets.insert(sets.end(), verifiers.begin(), verifiers.end());
  if (flags.samples) sets.push_back(absl::StrCat("evaluation.samples_per_prompt=", *flags.samples));
  sets.insert(sets.end(), flags.sets.begin(), flags.sets.end());
  return config::LoadRunConfig("", sets);
}

void Print(const ModelEvaluation& evaluation, uint32_t samples, bool as_json) {
  const EvaluationFigures& figures = evaluation.figures;
  nlohmann::ordered_json values = {{"prompts", figures.prompts}, {"samples", figures.samples}};
  for (const auto& [j, value] : figures.pass_at) {
    values[absl::StrCat("pass@", j)] = value;
    if (j == 1) values["pass@1/standard_error"] = figures.pass_standard_error;
  }
  values[absl::StrCat("maj@", samples)] = figures.majority;
  values["reward/mean"] = figures.mean_reward;
  values["reward/standard_error"] = figures.standard_error;
  values["length/mean"] = evaluation.mean_tokens;
  values["prompts/resumed"] = evaluation.resumed;
  values["prompts/failed"] = evaluation.failed;
  values["samples/abstained"] = figures.unjudged;
  if (as_json) {
    std::printf("%s\n", values.dump().c_str());
    return;
  }
  for (const auto& [name, value] : values.items()) {
    std::printf("%-24s %.6g\n", name.c_str(), value.get<double>());
  }
}

// A model folder: straight through a generator and a reward service.
absl::Status EvaluateFolder(const EvalFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig config, ModelConfiguration(flags));
  Shutdown shutdown;
  ROLLCALL_ASSIGN_OR_RETURN(const ModelEvaluation evaluation,
                            EvaluateModel(config,
                                          {.out = flags.out,
                                           .threshold = flags.threshold.value_or(1),
                                           .progress = !flags.json && isatty(STDERR_FILENO) == 1},
                                          shutdown));
  Print(evaluation, config.evaluation().samples_per_prompt(), flags.json);
  if (evaluation.failed == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      evaluation.failed, " prompts are in no figure, for they could not be evaluated; the first: ",
      std::string(evaluation.first_failure.message())));
}

absl::Status Evaluate(const EvalFlags& flags) {
  std::error_code ignored;
  return std::filesystem::is_directory(flags.target, ignored) ? EvaluateFolder(flags)
                                                              : EvaluateConfiguration(flags);
}

}  // namespace

void AddEvalCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command =
      app.add_subcommand("eval", "Score a model on held-out prompts; trains nothing");
  command
      ->add_option(
          "target", flags->target,
          "Hugging Face folder of the model, with --data and --verifier; or YAML file of a "
          "run: data.evaluation, reward, sampling, evaluation")
      ->required();
  command->add_option("--data", flags->data, "With a folder: prompts, JSONL; repeatable")
      ->allow_extra_args(false);
  command
      ->add_option("--verifier", flags->verifiers,
                   "With a folder: kind[,field=value]…, as in exact_match,after=#### or "
                   "remote,address=127.0.0.1:7500; repeatable. Commas in a value: use --set")
      ->allow_extra_args(false);
  command
      ->add_option("-k,--samples", flags->samples,
                   "Completions per prompt (evaluation.samples_per_prompt), for pass@k and maj@k")
      ->check(CLI::Range(1, 1024));
  command->add_option(
      "--threshold", flags->threshold,
      "With a folder: a sample passes when its reward is at least this; 1 if absent");
  command->add_option("--out", flags->out,
                      "With a folder: write every sample to this JSONL file; prompts that it holds "
                      "already are not sampled again");
  command->add_option("--model", flags->model,
                      "With a run: Hugging Face folder to score instead of model.path");
  command->add_option("--adapter", flags->adapter,
                      "PEFT folder of a low-rank adapter of the model (model.lora.path)");
  command
      ->add_option("--set", flags->sets,
                   "Override a field, as in sampling.max_tokens=512; repeatable")
      ->allow_extra_args(false);
  command->add_flag("--json", flags->json, "Print one JSON object and nothing else");
  command->callback([flags, &exit_code] { exit_code = Report(Evaluate(*flags)); });
}

}  // namespace rollcall::cli
