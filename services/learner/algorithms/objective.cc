#include "services/learner/algorithms/objective.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace rollcall::learner {
namespace {

// The cell where it is set, grpo's value where it is not.
template <typename Enum>
Enum Choose(Enum cell, Enum otherwise) {
  return cell == Enum{} ? otherwise : cell;
}

std::string NameOf(v1::AlgorithmPreset preset) {
  const std::string& name = v1::AlgorithmPreset_Name(preset);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "ALGORITHM_PRESET_"));
}

absl::Status CheckGroups(const v1::AlgorithmSection& section, const Objective& objective) {
  if (!objective.compares_group()) return absl::OkStatus();
  if (section.samples_per_prompt() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("algorithm.samples_per_prompt: ", objective.name,
                     " compares the samples of a prompt and needs at least 2, got ",
                     section.samples_per_prompt()));
  }
  if (section.min_valid_samples() < 2) {
    return absl::InvalidArgumentError(absl::StrCat("algorithm.min_valid_samples: ", objective.name,
                                                   " needs at least 2, got ",
                                                   section.min_valid_samples()));
  }
  return absl::OkStatus();
}

void ComposeRewards(const v1::AlgorithmSection& section, int64_t max_completion_tokens,
                    Objective& objective) {
  objective.gamma = section.gamma();
  objective.gae_lambda = section.gae_lambda();
  objective.reward_clip = section.reward_clip();
  objective.whiten_rewards = section.reward_whitening();
  objective.missing_eos_penalty = section.missing_eos_penalty();
  objective.overlong = {.max_tokens = max_completion_tokens,
                        .buffer = section.overlong_buffer(),
                        .factor = section.overlong_factor()};
  if (section.preset() != v1::ALGORITHM_PRESET_ONLINE_DPO &&
      section.preset() != v1::ALGORITHM_PRESET_ITERATIVE_DPO) {
    return;
  }
  objective.pairs = PairwiseOptions{
      .type = section.preference_loss() == v1::PREFERENCE_LOSS_IPO ? PairwiseLossType::kIpo
                                                                   : PairwiseLossType::kSigmoid,
      .beta = section.beta(),
      .first_two = section.pair_selection() == v1::PAIR_SELECTION_FIRST_TWO};
}

void ComposePolicy(const v1::AlgorithmSection& section, Objective& objective) {
  objective.policy = {
      .type = Choose(section.policy_loss(), v1::POLICY_LOSS_TYPE_PPO_CLIP),
      .ratio_level = Choose(section.ratio_level(), v1::RATIO_LEVEL_TOKEN),
      .clip = {.low = section.clip_low(), .high = section.clip_high()},
      .bounds = {.dual_clip = section.dual_clip(), .ratio_cap = section.ratio_cap()},
      .max_log_ratio = section.max_log_ratio()};
  objective.correction = {
      .mode = Choose(section.behavior_correction(), v1::BEHAVIOR_CORRECTION_NONE),
      .min = section.behavior_min(),
      .max = section.behavior_max()};
}

}  // namespace

absl::StatusOr<Objective> ComposeObjective(const v1::AlgorithmSection& section,
                                           int64_t max_completion_tokens) {
  Objective objective;
  objective.name = NameOf(Choose(section.preset(), v1::ALGORITHM_PRESET_GRPO));
  objective.baseline = Choose(section.advantage_baseline(), v1::ADVANTAGE_BASELINE_GROUP_MEAN);
  objective.advantage.normalization =
      Choose(section.advantage_normalization(), v1::ADVANTAGE_NORMALIZATION_GROUP_STD);
  objective.advantage.epsilon = section.advantage_epsilon();
  ComposeRewards(section, max_completion_tokens, objective);
  ComposePolicy(section, objective);
  objective.kl = {.estimator = Choose(section.kl_estimator(), v1::KL_ESTIMATOR_K3),
                  .straight_through = section.kl_straight_through(),
                  .max_value = section.kl_max_value()};
  objective.kl_coefficient = section.kl_coefficient();
  objective.kl_in_reward = section.kl_placement() == v1::KL_PLACEMENT_REWARD;
  objective.kl_target = section.kl_target();
  objective.kl_horizon = section.kl_horizon();
  objective.entropy_coefficient = section.entropy_coefficient();
  objective.mask_truncated = section.mask_truncated();
  objective.aggregation = Choose(section.aggregation(), v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN);
  objective.max_completion_tokens = max_completion_tokens;
  if (absl::Status status = CheckGroups(section, objective); !status.ok()) return status;
  if (objective.aggregation == v1::LOSS_AGGREGATION_CONSTANT_LENGTH && max_completion_tokens <= 0) {
    return absl::InvalidArgumentError(
        "algorithm.aggregation: constant_length divides by sampling.max_tokens, which is 0");
  }
  return objective;
}

}  // namespace rollcall::learner
