#include "services/cli/rlaif/chain_plan.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/config/field_rules.h"
#include "common/config/run_config.h"
#include "common/config/yaml.h"

namespace rollcall::cli {
namespace {

std::string In(const std::string& run_folder, ChainStep step, const std::string& file) {
  return absl::StrCat(run_folder, "/", StepFolder(step), "/", file);
}

v1::Stage StageOf(ChainStep step) {
  switch (step) {
    case ChainStep::kSft:
      return v1::STAGE_SFT;
    case ChainStep::kDpo:
      return v1::STAGE_DPO;
    case ChainStep::kRewardModel:
      return v1::STAGE_REWARD_MODEL;
    default:
      return v1::STAGE_RL;
  }
}

const v1::ChainStage& SettingsOf(ChainStep step, const v1::RlaifSection& rlaif) {
  switch (step) {
    case ChainStep::kSft:
      return rlaif.sft();
    case ChainStep::kDpo:
      return rlaif.dpo();
    case ChainStep::kRewardModel:
      return rlaif.reward_model();
    default:
      return rlaif.ppo();
  }
}

std::string TrainingData(ChainStep step, const std::string& run_folder) {
  switch (step) {
    case ChainStep::kSft:
      return In(run_folder, ChainStep::kRevisions, "sft.jsonl");
    case ChainStep::kPpo:
      return In(run_folder, ChainStep::kAnswers, "prompts.jsonl");
    default:
      return In(run_folder, ChainStep::kPreferences, "pairs.jsonl");
  }
}

}  // namespace

std::vector<ChainStep> StepsOf(const v1::RunConfig& config) {
  std::vector<ChainStep> steps = {ChainStep::kAnswers, ChainStep::kRevisions, ChainStep::kSft,
                                  ChainStep::kSamples, ChainStep::kPreferences};
  if (config.rlaif().train() == v1::RLAIF_TRAINING_REWARD_MODEL) {
    steps.insert(steps.end(), {ChainStep::kRewardModel, ChainStep::kPpo});
  } else {
    steps.push_back(ChainStep::kDpo);
  }
  return steps;
}

std::string StepName(ChainStep step) {
  switch (step) {
    case ChainStep::kAnswers:
      return "answers";
    case ChainStep::kRevisions:
      return "revisions";
    case ChainStep::kSft:
      return "sft";
    case ChainStep::kSamples:
      return "samples";
    case ChainStep::kPreferences:
      return "preferences";
    case ChainStep::kDpo:
      return "dpo";
    case ChainStep::kRewardModel:
      return "reward_model";
    case ChainStep::kPpo:
      return "ppo";
  }
  return "";
}

std::string StepFolder(ChainStep step) {
  // dpo and reward_model follow the same step, and may both be in one folder.
  const int number = step == ChainStep::kPpo   ? 7
                     : step >= ChainStep::kDpo ? 6
                                               : static_cast<int>(step) + 1;
  return absl::StrCat(number, "-", StepName(step));
}

bool Trains(ChainStep step) { return step == ChainStep::kSft || step >= ChainStep::kDpo; }

std::string CriticPath(const v1::RunConfig& config) {
  return config.rlaif().critic_path().empty() ? config.model().path()
                                              : config.rlaif().critic_path();
}

std::string JudgePath(const v1::RunConfig& config) {
  return config.rlaif().judge_path().empty() ? config.model().path() : config.rlaif().judge_path();
}

std::string ModelOf(ChainStep step, const v1::RunConfig& config, const std::string& run_folder) {
  switch (step) {
    case ChainStep::kAnswers:
    case ChainStep::kSft:
      return config.model().path();
    case ChainStep::kRevisions:
      return CriticPath(config);
    case ChainStep::kPreferences:
      return JudgePath(config);
    default:
      return In(run_folder, ChainStep::kSft, "final");
  }
}

ChainStep LastStep(const v1::RunConfig& config) { return StepsOf(config).back(); }

absl::StatusOr<v1::RunConfig> TrainingConfig(ChainStep step, const v1::RunConfig& config,
                                             const std::string& run_folder) {
  v1::RunConfig run;
  // The reward model is the one part that is not in the chain's own configuration.
  std::vector<std::string> sets;
  if (step == ChainStep::kPpo) {
    sets.push_back(absl::StrCat("reward.verifiers=[{name: preference, reward_model: {path: ",
                                config::QuoteYaml(In(run_folder, ChainStep::kRewardModel, "final")),
                                "}}]"));
  } else {
    sets.push_back("reward.verifiers=[]");
  }
  // What belongs to one of the stages, the others refuse.
  if (step != ChainStep::kDpo) sets.push_back("preference={}");
  if (step != ChainStep::kRewardModel) sets.push_back("learner.reward_centering=0");
  ROLLCALL_RETURN_IF_ERROR(config::ParseYaml(config::FormatYaml(config, config::Secrets::kKeep),
                                             StepFolder(step), sets, &run));
  run.set_name(StepFolder(step));
  run.set_output_dir(run_folder);
  run.set_stage(StageOf(step));
  run.mutable_model()->set_path(ModelOf(step, config, run_folder));
  v1::DataSection& data = *run.mutable_data();
  data.clear_train();
  data.add_train()->set_path(TrainingData(step, run_folder));
  data.clear_evaluation();
  data.clear_margin_column();
  const bool compares = step == ChainStep::kDpo || step == ChainStep::kRewardModel;
  data.set_preference_column(compares ? "preference" : "");
  run.mutable_evaluation()->set_at_start(false);
  const v1::ChainStage& settings = SettingsOf(step, config.rlaif());
  v1::LearnerSection& learner = *run.mutable_learner();
  learner.set_steps(settings.steps());
  learner.set_prompts_per_step(settings.prompts_per_step());
  *learner.mutable_optimizer() = settings.optimizer();
  learner.mutable_checkpoint()->set_resume(v1::RESUME_MODE_AUTO);
  if (step == ChainStep::kPpo && learner.critic().path().empty()) {
    learner.mutable_critic()->set_path(In(run_folder, ChainStep::kRewardModel, "final"));
  }
  ROLLCALL_RETURN_IF_ERROR(
      Annotate(config::ValidateRunConfig(run), absl::StrCat("step ", StepName(step))));
  return run;
}

absl::Status CheckTraining(const v1::RunConfig& config, const std::string& run_folder) {
  for (const ChainStep step : StepsOf(config)) {
    if (Trains(step)) {
      ROLLCALL_RETURN_IF_ERROR(TrainingConfig(step, config, run_folder).status());
    }
  }
  return absl::OkStatus();
}

}  // namespace rollcall::cli
