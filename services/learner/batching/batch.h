#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::learner {

// One packed training sequence: all tokens of a trajectory and, per token, whether it enters the
// loss and what is known of its probability. Columns have one entry per token; entries where
// loss_mask is 0 are unused (0).
struct TrainSequence {
  uint64_t group_id = 0;
  uint32_t sample_index = 0;
  std::vector<uint32_t> token_ids;
  // 1 where the token enters the loss; the first token never does (nothing predicts it).
  std::vector<uint8_t> loss_mask;
  // Nats. Rollout log-probs under the sampling temperature's plain softmax. Empty for supervised
  // data.
  std::vector<float> behavior_logprobs;
  // Nats. Under the frozen reference; empty when the objective has no KL term.
  std::vector<float> reference_logprobs;
  // Composed reward of the trajectory; unset when no verifier scored it (the sequence then has no
  // advantage and stays out of the loss). Unset for supervised data.
  std::optional<double> reward;
  // Reward and length in tokens of the prompt's greedy completion, where the objective compares
  // with it.
  std::optional<double> greedy_reward;
  uint32_t greedy_tokens = 0;
  bool greedy_truncated = false;
  // Whether every token was sampled under the version that is being trained, over keys and values of
  // that version (on-policy): the exact claim covers only these.
  bool on_policy = false;
  // By how much a pair's chosen sequence is to win; stage reward_model only.
  double margin = 0;
  // Of a pair's chosen sequence: the probability that it is the better one, 0.5 to 1. Of a labelled
  // completion (kto): 1 where it is desirable, 0 where it is not.
  double preference = 1;
  // 1 where a token in the loss belongs to the likelihood term of a preference loss alone, such as a
  // taught prompt; empty: nowhere.
  std::vector<uint8_t> likelihood_only;
  // Whether the completion was cut off by a length limit instead of ending by itself.
  bool truncated = false;
};

// What one training step consumes: whole groups, ordered by (group_id, sample_index) before
// anything numeric happens, so the order in which completions arrived never shows.
struct TrainBatch {
  std::vector<TrainSequence> sequences;
  // Group ids in order, each once; empty for recorded data.
  std::vector<uint64_t> group_ids;
  // Rollout-side values for the step's metrics (reward/mean, length/mean, …).
  std::map<std::string, double> metrics;
};

// What a batch must hold, beyond its shape.
struct BatchRequirements {
  // Every token id is below this.
  uint32_t vocab_size = 0;
  // Rewarded groups with rollout log-probs (rl) instead of demonstrations (sft).
  bool rollouts = false;
  // Log-probs of the reference model.
  bool reference_logprobs = false;
  // Sequences come in twos, a pair or a labelled completion and its mismatched one, each with a
  // token in the loss that is not likelihood_only.
  bool twos = false;
};

// Puts sequences and group ids into the order of (group_id, sample_index). Stable; supervised
// batches keep theirs.
void OrderBatch(TrainBatch& batch);

// Whether `batch` can be trained on: at least one sequence, in order and without duplicates, of the
// groups that group_ids names; columns as long as their sequence; token ids within the vocabulary;
// log-probs of loss tokens finite and not positive; rewards finite. INVALID_ARGUMENT names group,
// sample, position and value of the first violation.
absl::Status CheckBatch(const TrainBatch& batch, const BatchRequirements& requirements);

// Where batches come from: the rollout coordinator (rl) or a file (sft). Called by the training
// thread only.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  // Blocks until the batch of optimizer step `step` (counted from 1) is complete. OUT_OF_RANGE: the
  // data is used up; CANCELLED: the run is being stopped; other codes end the run.
  virtual absl::StatusOr<TrainBatch> Next(uint64_t step) = 0;
};

}  // namespace rollcall::learner
