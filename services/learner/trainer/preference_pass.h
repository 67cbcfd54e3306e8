#pragma once

#include <ATen/core/TensorBody.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "services/learner/algorithms/preference_objective.h"
#include "services/learner/batching/batch.h"
#include "services/learner/batching/packed_batch.h"
#include "services/learner/trainer/pair_totals.h"

namespace rollcall::learner {

// What a batch's preference loss is divided by, over all micro-batches and ranks, and the KL that
// KTO compares with.
struct PreferenceScale {
  // Pairs, or labelled completions.
  double units = 0;
  // Tokens in the loss of all chosen completions; pairs only.
  double likelihood_tokens = 0;
  // Nats; labelled completions only.
  double kl = 0;
};

// The batch's own units and likelihood_tokens.
PreferenceScale CountPreferences(const PreferenceObjective& objective, const TrainBatch& batch);

// Places of the batch's sequences that are scored together: whole pairs, or labelled completions
// (those at even places).
std::vector<std::vector<size_t>> PackPreferences(const PreferenceObjective& objective,
                                                 const TrainBatch& batch, size_t token_budget);
// Those of the mismatched completions (at odd places).
std::vector<std::vector<size_t>> PackMismatched(const TrainBatch& batch, size_t token_budget);

// Sum over the packed sequences of their log-ratios to the reference, in nats.
double LogRatioSum(const PackedBatch& packed, const at::Tensor& logprobs);

// One pass over a batch of preferences: turns the log-probs of each micro-batch into its share of
// the loss, and keeps the figures. Not thread-safe.
class PreferencePass {
 public:
  // `objective` and `batch` must outlive it.
  PreferencePass(const PreferenceObjective& objective, const TrainBatch& batch,
                 const PreferenceScale& scale)
      : objective_(objective), batch_(batch), scale_(scale) {}

  // logprobs: [loss tokens], nats, under the policy. Returns the micro-batch's share of the loss, a
  // scalar; shares add up to the loss of the whole batch.
  at::Tensor Add(const PackedBatch& packed, const at::Tensor& logprobs);

  // The loss of what was added.
  double loss() const { return loss_; }

  // Collective: the figures of all ranks' parts of the batch; the loss stays this one's.
  absl::Status SumOverRanks(ProcessGroup& group);

  // What PairTotals reports; <prefix>preference_loss (mean over pairs or completions);
  // …chosen_logprob and …rejected_logprob (nats, mean over the completions: of sums where the
  // objective takes sums, else of the means over their tokens); of pairs …sft_loss (nats, mean over
  // the tokens of the chosen completions), of labelled completions …kl (nats).
  void Report(const std::string& prefix, std::map<std::string, double>& metrics) const;

 private:
  at::Tensor AddPairs(const PackedBatch& packed, const at::Tensor& logprobs);
  at::Tensor AddLabelled(const PackedBatch& packed, const at::Tensor& logprobs);
  // Log-probs of completions: [sequences].
  CompletionLogprobs Completions(const PackedBatch& packed, const at::Tensor& logprobs) const;
  // A figure of the batch for each packed sequence whose place in it is even.
  at::Tensor PreferencesOf(const PackedBatch& packed, const at::Tensor& like) const;
  void AddLogprobs(const at::Tensor& shown, bool chosen);

  const PreferenceObjective& objective_;
  const TrainBatch& batch_;
  const PreferenceScale scale_;
  PairTotals totals_;
  double loss_ = 0;
  double likelihood_ = 0, likelihood_tokens_ = 0;
  struct {
    double sum = 0, count = 0;
  } chosen_logprobs_, rejected_logprobs_;
};

}  // namespace rollcall::learner
