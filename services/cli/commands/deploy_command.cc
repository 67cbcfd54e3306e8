#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/config/algorithm_presets.h"
#include "common/config/run_config.h"
#include "common/config/yaml.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"

namespace rollcall::cli {
namespace {

// What the chart sets itself: where services listen and are found, and how they are secured.
void ClearWhatTheChartSets(v1::RunConfig* config) {
  config->clear_security();
  config->mutable_learner()->clear_listen();
  config->mutable_learner()->clear_metrics_listen();
  config->mutable_learner()->clear_rendezvous();
  config->mutable_learner()->clear_rank();
  config->mutable_generator()->clear_listen();
  config->mutable_generator()->clear_metrics_listen();
  config->mutable_generator()->clear_addresses();
  config->mutable_reward()->clear_listen();
  config->mutable_reward()->clear_metrics_listen();
  config->mutable_reward()->clear_address();
  for (v1::VerifierConfig& verifier : *config->mutable_reward()->mutable_verifiers()) {
    if (!verifier.has_reward_model()) continue;
    verifier.mutable_reward_model()->clear_listen();
    verifier.mutable_reward_model()->clear_metrics_listen();
    verifier.mutable_reward_model()->clear_address();
  }
  config->mutable_reference()->clear_listen();
  config->mutable_reference()->clear_metrics_listen();
  config->mutable_reference()->clear_addresses();
}

// Indented by two, with what the chart would take for a template made literal.
std::string AsSection(const std::string& yaml) {
  const std::string literal = absl::StrReplaceAll(yaml, {{"{{", "{{ \"{{\" }}"}});
  std::string text;
  for (const auto& line : absl::StrSplit(literal, '\n', absl::SkipEmpty())) {
    absl::StrAppend(&text, "  ", line, "\n");
  }
  return text;
}

std::string ChartValues(const v1::RunConfig& config) {
  const int gpus = absl::StartsWith(config.model().device(), "cuda") ? 1 : 0;
  const bool refers = config::NeedsReferenceService(config);
  const uint32_t replicas = config.generator().replicas();
  const auto drain = static_cast<int>(std::ceil(config.rpc().drain_timeout()));
  v1::RunConfig run = config;
  ClearWhatTheChartSets(&run);
  // 5 s of preStop, and time to end by itself; the learner also saves a checkpoint.
  const int grace = drain + 35;
  return absl::StrCat("learner: {gpus: ", gpus, ", terminationGracePeriodSeconds: ", drain + 280,
                      "}\n", "generator: {replicas: ", replicas, ", maxReplicas: ", replicas,
                      ", gpus: ", gpus, ", terminationGracePeriodSeconds: ", grace, "}\n",
                      "reference: {enabled: ", refers ? "true" : "false", ", gpus: ", gpus,
                      ", terminationGracePeriodSeconds: ", grace, "}\n",
                      "reward: {terminationGracePeriodSeconds: ", grace, "}\n",
                      "rewardModel: {gpus: ", gpus, ", terminationGracePeriodSeconds: ", grace,
                      "}\n", "run:\n", AsSection(config::FormatYaml(run)));
}

absl::Status Render(const std::string& path, const std::vector<std::string>& sets) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig config, config::LoadRunConfig(path, sets));
  if (config.stage() == v1::STAGE_RLAIF) {
    return absl::InvalidArgumentError(
        "stage rlaif is a chain of runs that `rollcall train` starts on one machine; its stages "
        "can "
        "be deployed by themselves, from the config.yaml in their folders");
  }
  std::printf(
      "# Values of deploy/helm/rollcall for %s. Say where the model is (models.volume), then:\n"
      "#   helm install %s deploy/helm/rollcall -f this.yaml\n%s",
      path.c_str(), config.name().c_str(), ChartValues(config).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddDeployCommand(CLI::App& app, int& exit_code) {
  CLI::App* deploy = app.add_subcommand("deploy", "A run on a cluster");
  deploy->require_subcommand(1);
  CLI::App* render =
      deploy->add_subcommand("render", "Print the Helm chart's values for a configuration");
  auto path = std::make_shared<std::string>();
  auto sets = std::make_shared<std::vector<std::string>>();
  render->add_option("config", *path, "YAML file of the run")->required();
  render->add_option("--set", *sets, "Override a field; repeatable")->allow_extra_args(false);
  render->callback([path, sets, &exit_code] { exit_code = Report(Render(*path, *sets)); });
}

}  // namespace rollcall::cli
