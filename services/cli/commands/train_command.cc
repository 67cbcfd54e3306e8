#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/config/algorithm_presets.h"
#include "common/config/run_config.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/rlaif/chain.h"
#include "services/cli/train/session.h"

namespace rollcall::cli {
namespace {

struct TrainFlags {
  std::string config;
  std::vector<std::string> sets;
  bool quiet = false;
  bool connect = false;
};

// With --connect nothing but the learner is started, so every other service needs an address.
absl::Status CheckAddresses(const v1::RunConfig& config) {
  const bool refers = config::NeedsReferenceService(config);
  std::vector<std::string> missing;
  const bool samples = config.stage() == v1::STAGE_RL || config.stage() == v1::STAGE_EVAL;
  if (samples && config.generator().addresses().empty()) missing.push_back("generator.addresses");
  if (samples && config::NeedsRewardService(config) && config.reward().address().empty()) {
    missing.push_back("reward.address");
  }
  if (refers && config.reference().addresses().empty()) missing.push_back("reference.addresses");
  if (missing.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--connect drives services that run already: set ",
                                                 absl::StrJoin(missing, ", ")));
}

absl::Status Train(const TrainFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig config,
                            config::LoadRunConfig(flags.config, flags.sets));
  const bool chain = config.stage() == v1::STAGE_RLAIF;
  if (flags.connect && chain) {
    return absl::InvalidArgumentError(
        "--connect: stage rlaif starts a generator for each of its models itself");
  }
  if (flags.connect) ROLLCALL_RETURN_IF_ERROR(CheckAddresses(config));
  Shutdown shutdown;
  ROLLCALL_ASSIGN_OR_RETURN(const SessionResult result,
                            chain ? RunChain(config, flags.quiet, shutdown)
                                  : RunLocally(config, {.quiet = flags.quiet}, shutdown));
  if (flags.quiet) return absl::OkStatus();
  if (chain) {
    std::printf("%s %s\n",
                result.interrupted ? "stopped; the same command goes on where it stopped, in"
                                   : "done; model: final/, what was done: chain.json, in",
                result.run_dir.c_str());
    return absl::OkStatus();
  }
  if (result.interrupted) {
    std::printf("stopped; the same command goes on from the checkpoint in %s\n",
                result.run_dir.c_str());
  } else {
    std::printf("done; model: %s/final  metrics: %s/metrics.jsonl  logs: %s/logs\n",
                result.run_dir.c_str(), result.run_dir.c_str(), result.run_dir.c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddTrainCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<TrainFlags>();
  CLI::App* command = app.add_subcommand("train",
                                         "Run a configuration to its end on this machine: services "
                                         "as child processes over Unix sockets");
  command->add_option("config", flags->config, "YAML file of the run")->required();
  command
      ->add_option("--set", flags->sets,
                   "Override a field, as in learner.optimizer.lr=1e-6; repeatable")
      ->allow_extra_args(false);
  command->add_flag("--quiet", flags->quiet, "Print nothing but errors");
  command->add_flag("--connect", flags->connect,
                    "Start only the learner, and drive the services at generator.addresses, "
                    "reward.address and reference.addresses");
  command->footer(
      "Stage rlaif is a chain of steps, each gone on with where it stopped (docs/rlaif.md).\n"
      "The run folder is output_dir/name. A run folder with a checkpoint is gone on with "
      "(learner.checkpoint.resume).\n"
      "With learner.ranks above 1 all ranks are started; when one is killed, all start again from "
      "the "
      "last checkpoint.\n"
      "Ctrl-C finishes the step, saves a checkpoint and stops every service; a second one kills "
      "them.\n"
      "Exit codes: 0 done or stopped by you, 1 the run failed, 2 bad configuration.");
  command->callback([flags, &exit_code] { exit_code = Report(Train(*flags)); });
}

}  // namespace rollcall::cli
