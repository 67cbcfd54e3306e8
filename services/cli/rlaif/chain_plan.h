#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::cli {

// What stage rlaif consists of, in order. Pure.
enum class ChainStep {
  kAnswers,      // the policy answers the prompts
  kRevisions,    // the critic criticises and revises
  kSft,          // the policy learns the revisions
  kSamples,      // the fine-tuned policy answers, several times
  kPreferences,  // the judge compares
  kDpo,          // the policy learns the preferences,
  kRewardModel,  // or a reward model does,
  kPpo,          // and the policy is trained against it
};

// Those that rlaif.train asks for.
std::vector<ChainStep> StepsOf(const v1::RunConfig& config);
// "revisions".
std::string StepName(ChainStep step);
// Of the run folder: "2-revisions".
std::string StepFolder(ChainStep step);
// One that runs a learner.
bool Trains(ChainStep step);

std::string CriticPath(const v1::RunConfig& config);
std::string JudgePath(const v1::RunConfig& config);
// The model that `step` asks or starts from, a folder of the run where an earlier step made it.
std::string ModelOf(ChainStep step, const v1::RunConfig& config, const std::string& run_folder);
// The step that leaves the policy.
ChainStep LastStep(const v1::RunConfig& config);

// The configuration of a training step, a run of its own in a folder of the chain's. INVALID_ARGUMENT: what the chain's
// configuration says cannot be such a run.
absl::StatusOr<v1::RunConfig> TrainingConfig(ChainStep step, const v1::RunConfig& config,
                                             const std::string& run_folder);

// Every training step's configuration holds, so that nothing is sampled in vain.
absl::Status CheckTraining(const v1::RunConfig& config, const std::string& run_folder);

}  // namespace rollcall::cli
