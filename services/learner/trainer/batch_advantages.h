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
  // Means over scored sequences and over tokens, for the metrics and the adaptive coefficient; nats.
  // 0 where the objective takes no KL from the reward.
  double kl_of_sequences = 0;
  double kl_of_tokens = 0;
  uint64_t scored_sequences = 0;
};

// Rewards to advantages, as `objective` says, in this order:
//   1. the soft overlong punishment is added to each reward
//   2. kl_coefficient * KL under the rollout's log-probs is taken from it: as a sum over the
//      sequence, or token by token with baseline none
//   3. baseline, then normalisation, over the sequences that have a reward
//
// Adds train/advantage_…, train/overlong_fraction and train/kl (of the rollout) to `metrics`.
// INVALID_ARGUMENT: no sequence has a reward, or a group has a single one and the baseline compares
// groups. Pure apart from `metrics`; sums run in the batch's order.
absl::StatusOr<BatchAdvantages> ComputeBatchAdvantages(const Objective& objective,
                                                       const TrainBatch& batch,
                                                       double kl_coefficient,
                                                       std::map<std::string, double>& metrics);

}  // namespace rollcall::learner
