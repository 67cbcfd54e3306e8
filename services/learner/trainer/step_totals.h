#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/learner/algorithms/token_loss.h"
#include "services/learner/batching/packed_batch.h"
#include "services/learner/trainer/process_group.h"

namespace rollcall::learner {

// Where the learner's first pass disagrees most with the rollout's log-probs.
struct LogprobGap {
  // Nats; infinite where the learner's log-prob is not a number.
  double nats = 0;
  uint64_t group_id = 0;
  uint32_t sample_index = 0;
  // Position in the trajectory, from 0.
  size_t position = 0;
  float rollout_logprob = 0;
  float learner_logprob = 0;
};

// The numbers of one training step over all its micro-batches: sums in float64 in the order of the
// tokens, so they are the same bits in every run.
class StepTotals {
 public:
  // logprobs, entropy: [loss tokens], float32, on any device; weights: as TokenWeights gave them.
  void AddMicroBatch(const PackedBatch& packed, const TokenLoss& loss, const at::Tensor& entropy,
                     std::span<const float> weights);
  // The same for pairs: margins, losses: [pairs], what the loss is taken of and the loss; each pair
  // counts with `weight`.
  void AddPairs(const PackedBatch& packed, const at::Tensor& margins, const at::Tensor& losses,
                const at::Tensor& entropy, double weight);
  // One whose loss is that of whole sequences.
  void AddMicroBatch(uint64_t tokens, double loss) {
    ++micro_batches_;
    tokens_ += tokens;
    loss_ += loss;
  }
  // The same with the entropy of the tokens in the loss: [loss tokens].
  void AddMicroBatch(uint64_t tokens, double loss, const at::Tensor& entropy);
  // Compares the micro-batch's log-probs with those of the rollout, over sequences that are
  // on-policy.
  void MeasureGap(const TrainBatch& batch, const PackedBatch& packed, const at::Tensor& logprobs);

  // How far the policy is from the one that sampled, and from the reference where there is one, over
  // every pass. logprobs: [loss tokens], float32.
  void MeasureDivergence(const PackedBatch& packed, const at::Tensor& logprobs);

  void AddUpdate(double grad_norm) {
    ++updates_;
    grad_norm_ += grad_norm;
  }
  void AddSkippedUpdate() { ++skipped_updates_; }

  // Collective: every rank's largest gap becomes the largest of all.
  absl::Status ShareGap(ProcessGroup& group);
  // Collective: what this rank's micro-batches added becomes what those of all ranks did. Updates
  // are those of all already.
  absl::Status SumOverRanks(ProcessGroup& group);

  double loss() const { return loss_; }
  uint64_t tokens() const { return tokens_; }
  uint64_t skipped_updates() const { return skipped_updates_; }
  // Unset when no on-policy token was compared.
  const std::optional<LogprobGap>& gap() const { return gap_; }

  // Of pairs also train/pair_margin (nats, mean) and train/pair_accuracy (share above 0).
  //
  // train/loss, train/policy_loss (per update); train/kl, train/entropy, train/clip_fraction_low,
  // …_high, train/ratio_mean, …_min, …_max (over loss tokens); train/grad_norm (mean of the updates
  // taken, before clipping); train/updates, train/skipped_updates, train/micro_batches,
  // train/tokens, train/loss_tokens; train/logprob_gap.
  //
  // train/behavior_kl_k1, …_k3: KL(sampler || policy); train/reference_kl_k1, …_k3: KL(policy ||
  // reference); nats, mean over loss tokens, whatever estimator the objective uses. With r = log-prob
  // under the second less that under the first, k1 is -r and k3 is exp(r) - 1 - r
  // (http://joschu.net/blog/kl-approx.html).
  void Report(std::map<std::string, double>& metrics) const;

 private:
  // The sums of one pair of policies.
  struct Divergence {
    double k1 = 0, k3 = 0;
    uint64_t tokens = 0;
    void Add(double first, double second);
    void Report(const std::string& name, std::map<std::string, double>& metrics) const;
  };

  void AddPolicy(const TokenLoss& loss, std::span<const float> weights);

  double loss_ = 0, policy_loss_ = 0, kl_ = 0, entropy_ = 0;
  double ratio_ = 0;
  double min_ratio_ = std::numeric_limits<double>::infinity();
  double max_ratio_ = -std::numeric_limits<double>::infinity();
  Divergence behavior_, reference_;
  uint64_t clipped_low_ = 0, clipped_high_ = 0;
  uint64_t pairs_ = 0, ordered_pairs_ = 0;
  double margin_ = 0;
  uint64_t tokens_ = 0, loss_tokens_ = 0, micro_batches_ = 0;
  uint64_t updates_ = 0, skipped_updates_ = 0;
  double grad_norm_ = 0;
  bool has_policy_ = false, has_kl_ = false;
  std::optional<LogprobGap> gap_;
};

// train/advantage_mean, …_std, …_min, …_max over the scored sequences, and
// train/zero_advantage_fraction, the share of them that a group without any difference in reward
// left at 0.
void ReportAdvantages(std::span<const float> advantages, std::map<std::string, double>& metrics);

}  // namespace rollcall::learner
