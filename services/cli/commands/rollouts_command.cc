#include <google/protobuf/util/json_util.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/wire/rollout_log.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"

namespace rollcall::cli {
namespace {

struct RolloutsFlags {
  std::string run;
  std::string outcome;
  std::string purpose = "rollout";
  std::optional<uint64_t> group;
  std::optional<uint64_t> step;
  std::optional<double> min_reward;
  std::optional<double> max_reward;
  uint64_t limit = 0;
  bool jsonl = false;
};

std::string OutcomeName(const v1::GroupOutcome& outcome) {
  switch (outcome.outcome_case()) {
    case v1::GroupOutcome::kTrained:
      return "trained";
    case v1::GroupOutcome::kFiltered:
      return "filtered";
    case v1::GroupOutcome::kDropped:
      return "dropped";
    case v1::GroupOutcome::kFinished:
      return "finished";
    case v1::GroupOutcome::OUTCOME_NOT_SET:
      break;
  }
  return "unknown";
}

absl::StatusOr<v1::RandomPurpose> PurposeOf(const std::string& name) {
  if (name == "rollout") return v1::RANDOM_PURPOSE_ROLLOUT;
  if (name == "evaluation") return v1::RANDOM_PURPOSE_EVALUATION;
  return absl::InvalidArgumentError(
      absl::StrCat("--purpose: expected rollout or evaluation, got ", name));
}

std::optional<double> MeanReward(const v1::Group& group) {
  double sum = 0;
  int count = 0;
  for (const v1::Trajectory& trajectory : group.trajectories()) {
    if (!trajectory.reward().has_value()) continue;
    sum += trajectory.reward().value();
    ++count;
  }
  if (count == 0) return std::nullopt;
  return sum / count;
}

bool RewardWanted(const v1::Group& group, const RolloutsFlags& flags) {
  if (!flags.min_reward && !flags.max_reward) return true;
  const std::optional<double> mean = MeanReward(group);
  return mean && (!flags.min_reward || *mean >= *flags.min_reward) &&
         (!flags.max_reward || *mean <= *flags.max_reward);
}

void PrintForReading(const v1::Group& group) {
  const std::optional<double> mean = MeanReward(group);
  std::printf("group %llu  lineage %llu  %s", static_cast<unsigned long long>(group.group_id()),
              static_cast<unsigned long long>(group.lineage()),
              OutcomeName(group.outcome()).c_str());
  if (group.outcome().has_dropped()) {
    std::printf(" (%s: %s)", group.outcome().dropped().reason().c_str(),
                group.outcome().dropped().detail().c_str());
  }
  if (group.outcome().has_filtered())
    std::printf(" (%s)", group.outcome().filtered().filter().c_str());
  if (group.has_trained_step())
    std::printf(" at step %llu", static_cast<unsigned long long>(group.trained_step()));
  if (mean) std::printf("  mean reward %.3f", *mean);
  std::printf("\n  prompt: %s\n", absl::Utf8SafeCHexEscape(group.prompt().text()).c_str());
  for (const v1::Trajectory& trajectory : group.trajectories()) {
    const std::string reward = trajectory.reward().has_value()
                                   ? absl::StrFormat("%7.3f", trajectory.reward().value())
                                   : "   none";
    std::printf("  %3u %s  %s\n", trajectory.index(), reward.c_str(),
                absl::Utf8SafeCHexEscape(trajectory.text()).c_str());
    for (const v1::VerifierOutcome& verifier : trajectory.reward().verifiers()) {
      if (verifier.has_failed())
        std::printf("      %s failed: %s\n", verifier.verifier().c_str(),
                    verifier.failed().c_str());
    }
  }
}

absl::Status PrintJson(const v1::Group& group) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(group, &json, options);
  if (!status.ok())
    return absl::InternalError(absl::StrCat("group ", group.group_id(), ": ", status.ToString()));
  std::printf("%s\n", json.c_str());
  return absl::OkStatus();
}

absl::Status ShowRollouts(const RolloutsFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RandomPurpose purpose, PurposeOf(flags.purpose));
  const std::string folder = flags.run + "/rollouts";
  ROLLCALL_ASSIGN_OR_RETURN(const wire::RolloutIndex index, wire::RolloutIndex::Read(folder));
  if (index.files().empty())
    return absl::NotFoundError(absl::StrCat(folder, ": no rollout files; is this a run folder?"));

  uint64_t shown = 0;
  uint64_t matching = 0;
  const auto wanted = [&](const wire::RolloutIndex::Key& key,
                          const wire::RolloutIndex::Entry& entry) {
    return key.first == purpose && (!flags.group || key.second == *flags.group) &&
           (flags.outcome.empty() || OutcomeName(entry.outcome) == flags.outcome) &&
           (!flags.step || entry.trained_step == flags.step);
  };
  ROLLCALL_RETURN_IF_ERROR(index.ForEach(wanted, [&](const v1::Group& group) -> absl::Status {
    if (!RewardWanted(group, flags)) return absl::OkStatus();
    ++matching;
    if (flags.limit > 0 && shown >= flags.limit) return absl::OkStatus();
    ++shown;
    if (flags.jsonl) return PrintJson(group);
    PrintForReading(group);
    return absl::OkStatus();
  }));
  if (!flags.jsonl) {
    std::printf("%llu of %llu matching groups shown; %zu recorded\n",
                static_cast<unsigned long long>(shown), static_cast<unsigned long long>(matching),
                index.entries().size());
  }
  return absl::OkStatus();
}

}  // namespace

void AddRolloutsCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<RolloutsFlags>();
  CLI::App* command =
      app.add_subcommand("rollouts", "Show, filter and export the groups a run has recorded");
  command->add_option("run", flags->run, "Run folder")->required();
  command->add_option("--outcome", flags->outcome, "Only groups that ended so")
      ->check(CLI::IsMember({"trained", "filtered", "dropped", "finished"}));
  command->add_option("--purpose", flags->purpose, "rollout or evaluation")->capture_default_str();
  command->add_option("--group", flags->group, "Only this group id");
  command->add_option("--step", flags->step, "Only groups trained at this optimizer step");
  command->add_option("--min-reward", flags->min_reward,
                      "Only groups whose mean reward is at least this");
  command->add_option("--max-reward", flags->max_reward,
                      "Only groups whose mean reward is at most this");
  command->add_option("--limit", flags->limit, "Show at most this many; 0: all")
      ->capture_default_str();
  command->add_flag("--jsonl", flags->jsonl,
                    "One JSON object a group, every field of rollout.proto");
  command->callback([flags, &exit_code] { exit_code = Report(ShowRollouts(*flags)); });
}

}  // namespace rollcall::cli
