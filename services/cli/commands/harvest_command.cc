#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/wire/rollout_log.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/harvest/harvest.h"
#include "services/cli/harvest/sorted_rows.h"

namespace rollcall::cli {
namespace {

struct HarvestFlags {
  std::string run;
  std::string out;
  std::string as;
  bool overwrite = false;
  HarvestOptions options;
};

// Options of another kind of rows would be without effect.
absl::Status CheckOptions(const HarvestFlags& flags, const CLI::App& command) {
  const auto only_for = [&](const char* option, const char* kind) -> absl::Status {
    if (command.count(option) == 0 || flags.as == kind) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(option, ": goes with --as ", kind, " only"));
  };
  ROLLCALL_RETURN_IF_ERROR(only_for("--min-margin", "pairs"));
  ROLLCALL_RETURN_IF_ERROR(only_for("--pairs-per-group", "pairs"));
  ROLLCALL_RETURN_IF_ERROR(only_for("--threshold", "kto"));
  ROLLCALL_RETURN_IF_ERROR(only_for("--min-reward", "sft"));
  std::error_code error;
  if (!flags.overwrite && std::filesystem::exists(flags.out, error)) {
    return absl::AlreadyExistsError(
        absl::StrCat(flags.out, ": there already; name another file, or --overwrite"));
  }
  return absl::OkStatus();
}

absl::Status RunHarvest(HarvestFlags& flags, const CLI::App& command) {
  ROLLCALL_RETURN_IF_ERROR(CheckOptions(flags, command));
  flags.options.kind = flags.as == "kto"   ? HarvestKind::kKto
                       : flags.as == "sft" ? HarvestKind::kSft
                                           : HarvestKind::kPairs;
  const std::string folder = flags.run + "/rollouts";
  ROLLCALL_ASSIGN_OR_RETURN(const wire::RolloutIndex index, wire::RolloutIndex::Read(folder));
  if (index.files().empty()) {
    return absl::NotFoundError(absl::StrCat(folder, ": no rollout files; is this a run folder?"));
  }
  Harvest harvest(flags.options, index.last_lineage());
  ROLLCALL_ASSIGN_OR_RETURN(SortedRows rows, SortedRows::Open(flags.out));
  const auto wanted = [](const wire::RolloutIndex::Key& key, const wire::RolloutIndex::Entry&) {
    return key.first == v1::RANDOM_PURPOSE_ROLLOUT;
  };
  const auto take = [&](const v1::Group& group) -> absl::Status {
    for (const nlohmann::json& row : harvest.Rows(group)) {
      ROLLCALL_RETURN_IF_ERROR(rows.Add(
          group.group_id(), row.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
    }
    return absl::OkStatus();
  };
  ROLLCALL_RETURN_IF_ERROR(index.ForEach(wanted, take));
  if (harvest.counts().rows == 0) {
    return absl::NotFoundError(absl::StrCat(flags.run, ": nothing to harvest: ", harvest.Summary(),
                                            "; nothing was written"));
  }
  ROLLCALL_RETURN_IF_ERROR(rows.Write());
  std::printf("%s: %s\n", flags.out.c_str(), harvest.Summary().c_str());
  return absl::OkStatus();
}

}  // namespace

void AddHarvestCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<HarvestFlags>();
  HarvestOptions& options = flags->options;
  CLI::App* command = app.add_subcommand(
      "harvest",
      "Turn what a run has sampled into training data: preference pairs, KTO labels, or the best "
      "samples for sft. Takes each group of the surviving run once, and only samples that have a "
      "reward and ended by themselves; says how many it left out, and why (docs/data.md)");
  command->add_option("run", flags->run, "Run folder")->required();
  command->add_option("out", flags->out, "File to write: JSONL, or Parquet where it ends .parquet")
      ->required();
  command
      ->add_option("--as", flags->as,
                   "pairs: prompt, chosen, rejected and margin, the best against the worst sample "
                   "of a group. kto: prompt, completion and label. sft: prompt and completion, the "
                   "best sample of each group")
      ->required()
      ->check(CLI::IsMember({"pairs", "kto", "sft"}));
  command
      ->add_option("--pairs-per-group", options.pairs_per_group,
                   "Pairs: at most so many of a group: best and worst, second best and second "
                   "worst, …")
      ->check(CLI::Range(1u, 512u))
      ->capture_default_str();
  command
      ->add_option("--min-margin", options.min_margin,
                   "Pairs: only those whose rewards differ by at least this; equal rewards make no "
                   "pair")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option(
      "--threshold", options.threshold,
      "KTO: desirable from this reward on; without it: above the mean of the group, "
      "undesirable below");
  command->add_option("--min-reward", options.min_reward,
                      "SFT: all samples from this reward on; without it: the best of each group");
  command->add_flag("--keep-truncated", options.keep_truncated,
                    "Also samples that a length limit cut off");
  command->add_flag("--overwrite", flags->overwrite, "Replace the file if it is there");
  command->callback(
      [flags, command, &exit_code] { exit_code = Report(RunHarvest(*flags, *command)); });
}

}  // namespace rollcall::cli
