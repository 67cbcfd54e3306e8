#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/algorithms/advantage.h"
#include "services/learner/algorithms/behavior_correction.h"
#include "services/learner/algorithms/kl.h"
#include "services/learner/algorithms/pairwise_loss.h"
#include "services/learner/algorithms/policy_loss.h"
#include "services/learner/algorithms/reward_shaping.h"

namespace rollcall::learner {

// An algorithm as data: one row of the table that docs/objectives.md prints. A name such as `grpo`
// is a row of the presets (common/config/algorithm_presets.cc); the configuration overrides its
// cells.
struct Objective {
  std::string name;
  v1::AdvantageBaseline baseline = v1::ADVANTAGE_BASELINE_GROUP_MEAN;
  GroupNormalization advantage;
  // Discount of later token rewards; used by baselines none, greedy and critic.
  double gamma = 1.0;
  // GAE's lambda; used by baseline critic.
  double gae_lambda = 1.0;
  // Rewards are clamped to +- this; 0: not at all.
  double reward_clip = 0;
  // Token rewards are divided by their standard deviation; baselines none, greedy and critic.
  bool whiten_rewards = false;
  // Taken from the reward of a completion that was cut off.
  double missing_eos_penalty = 0;
  // Online DPO: a loss of pairs in place of all that follows.
  std::optional<PairwiseOptions> pairs;
  PolicyLossOptions policy;
  KlOptions kl;
  // Weight of the KL to the reference; 0: the objective has no such term.
  double kl_coefficient = 0;
  // The KL is taken from the reward instead of being a term of the loss.
  bool kl_in_reward = false;
  // Above 0: kl_coefficient adapts to keep the KL near this (nats), over kl_horizon sequences.
  double kl_target = 0;
  double kl_horizon = 10000;
  double entropy_coefficient = 0;
  BehaviorCorrectionOptions correction;
  OverlongOptions overlong;
  bool mask_truncated = false;
  v1::LossAggregation aggregation = v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
  // Most tokens a completion may have; what constant_length divides by.
  int64_t max_completion_tokens = 0;

  bool needs_reference() const { return kl_coefficient > 0 || pairs.has_value(); }
  bool needs_critic() const { return baseline == v1::ADVANTAGE_BASELINE_CRITIC; }
  bool needs_greedy() const { return baseline == v1::ADVANTAGE_BASELINE_GREEDY; }
  // Advantages are of tokens, not of whole sequences.
  bool token_rewards() const {
    return needs_critic() || needs_greedy() || baseline == v1::ADVANTAGE_BASELINE_NONE;
  }
  bool compares_group() const { return pairs.has_value() || !token_rewards(); }
  bool kl_in_loss() const { return kl_coefficient > 0 && !kl_in_reward; }
  bool corrects_behavior() const { return correction.mode != v1::BEHAVIOR_CORRECTION_NONE; }
};

// The objective that `section` describes, for completions of at most max_completion_tokens. Cells
// that are not set (enums left unspecified) are grpo's. INVALID_ARGUMENT names the field that the
// objective cannot use, such as samples_per_prompt below 2 with a baseline over the group.
absl::StatusOr<Objective> ComposeObjective(const v1::AlgorithmSection& section,
                                           int64_t max_completion_tokens = 0);

}  // namespace rollcall::learner
