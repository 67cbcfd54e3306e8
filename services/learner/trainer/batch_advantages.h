#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/learner/algorithms/objective.h"
#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// What a batch's rewards say about its tokens.
struct BatchAdvantages {
  // For each sequence of the batch one advantage per token in the loss; 0 without a reward.
  std::vector<std::vector<float>> of_tokens;
  // What the critic is trained towards, likewise; empty without one.
  std::vector<std::vector<float>> returns;
  // Means over scored sequences and over tokens, for the metrics and the adaptive coefficient; nats.
  // 0 where the objective takes no KL from the reward.
  double kl_of_sequences = 0;
  double kl_of_tokens = 0;
  uint64_t scored_sequences = 0;
};

// The reward of one sequence that has one: clamped to reward_clip, less missing_eos_penalty where it
// was cut off, less the soft overlong punishment.
double ShapedReward(const Objective& objective, const TrainSequence& sequence);

// Rewards to advantages, as `objective` says, in this order:
//   1. ShapedReward of each sequence
//   2. kl_coefficient * KL under the rollout's log-probs is taken from it: as a sum over the
//      sequence, or token by token with baselines none, greedy and critic; then reward whitening
//   3. baseline, then normalisation, over the sequences that have a reward
//
// values: the critic's, for each sequence of the batch one per token in the loss; null without one.
//
// Adds train/advantage_…, train/overlong_fraction, train/kl (of the rollout) and with a critic
// train/value_mean and train/explained_variance to `metrics`. INVALID_ARGUMENT: no sequence has a
// reward, a group has a single one and the baseline compares groups, or the greedy reward is
// missing. Pure apart from `metrics`; sums run in the batch's order.
absl::StatusOr<BatchAdvantages> ComputeBatchAdvantages(
    const Objective& objective, const TrainBatch& batch,
    const std::vector<std::vector<float>>* values, double kl_coefficient,
    std::map<std::string, double>& metrics);

}  // namespace rollcall::learner
