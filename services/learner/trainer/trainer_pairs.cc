// Online DPO: the trainer's step over pairs of completions.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "services/learner/batching/packing.h"
#include "services/learner/batching/rank_share.h"
#include "services/learner/trainer/sequence_sums.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {

absl::Status Trainer::TrainPairs(const TrainBatch& batch, StepReport& report, double lr) {
  std::vector<std::optional<double>> rewards;
  for (const TrainSequence& sequence : batch.sequences) {
    rewards.push_back(sequence.reward.has_value()
                          ? std::optional<double>(ShapedReward(objective_, sequence))
                          : std::nullopt);
  }
  const SelectedPairs selected = SelectPairs(batch, rewards, objective_.pairs->first_two);
  report.metrics["train/pairs"] = static_cast<double>(selected.pairs.size());
  report.metrics["train/tied_groups"] = static_cast<double>(selected.tied_groups);
  report.metrics["train/incomplete_groups"] = static_cast<double>(selected.incomplete_groups);
  const size_t count = selected.pairs.size();
  const size_t parts =
      std::max<size_t>(1, std::min<size_t>(config_.algorithm().mini_batches(), count));
  const uint32_t epochs = std::max(1u, config_.algorithm().epochs_per_batch());
  bool first_pass = true;
  for (uint32_t epoch = 0; epoch < epochs; ++epoch) {
    for (size_t part = 0; part < parts; ++part) {
      const size_t begin = part * count / parts, end = (part + 1) * count / parts;
      const std::span<const SequencePair> pairs(selected.pairs.data() + begin, end - begin);
      ROLLCALL_RETURN_IF_ERROR(RunPairs(batch, pairs, first_pass, lr));
      first_pass = first_pass && pairs.empty();
    }
  }
  return absl::OkStatus();
}

absl::Status Trainer::RunPairs(const TrainBatch& batch, std::span<const SequencePair> pairs,
                               bool first_pass, double lr) {
  const auto pairs_of_all = static_cast<double>(pairs.size());
  // Every group was a tie: nothing to learn from.
  if (pairs.empty()) return absl::OkStatus();
  std::vector<size_t> lengths;
  for (const SequencePair& pair : pairs) {
    lengths.push_back(batch.sequences[pair.chosen].token_ids.size() +
                      batch.sequences[pair.rejected].token_ids.size());
  }
  const std::vector<size_t> own = ShareOfRank(lengths, group_->rank(), group_->size());
  for (size_t i = 0; i < own.size(); ++i) lengths[i] = lengths[own[i]];
  lengths.resize(own.size());
  const double loss_before = totals_.loss();
  for (const std::vector<size_t>& micro_batch :
       PackByTokens(lengths, config_.learner().micro_batch_tokens())) {
    std::vector<size_t> sequences;
    for (const size_t place : micro_batch) {
      sequences.push_back(pairs[own[place]].chosen);
      sequences.push_back(pairs[own[place]].rejected);
    }
    ROLLCALL_RETURN_IF_ERROR(
        RunPairMicroBatch(batch, Pack(batch, sequences), first_pass, pairs_of_all));
  }
  if (first_pass) ROLLCALL_RETURN_IF_ERROR(JudgeGap());
  return Update(totals_.loss() - loss_before, lr);
}

absl::Status Trainer::RunPairMicroBatch(const TrainBatch& batch, const PackedBatch& packed,
                                        bool first_pass, double pairs_of_all) {
  const at::AutoGradMode grad_mode(true);
  const absl::Time start = clock_->Now();
  ROLLCALL_ASSIGN_OR_RETURN(const model::TokenScores scores,
                            Score(decoder_, packed, model::EntropyMode::kDetached));
  const at::Tensor reference = at::tensor(packed.reference_logprobs).to(scores.logprob.device());
  // [pairs, 2]: chosen, rejected.
  const at::Tensor policy_sums = SumPerSequence(packed, scores.logprob).reshape({-1, 2});
  const at::Tensor reference_sums = SumPerSequence(packed, reference).reshape({-1, 2});
  const PairwiseOptions& options = *objective_.pairs;
  const at::Tensor losses =
      PairwiseLoss(options, {.chosen = policy_sums.select(1, 0),
                             .rejected = policy_sums.select(1, 1),
                             .reference_chosen = reference_sums.select(1, 0),
                             .reference_rejected = reference_sums.select(1, 1)});
  const at::Tensor margins = policy_sums.sub(reference_sums);
  totals_.AddPairs(packed, margins.select(1, 0).sub(margins.select(1, 1)), losses, scores.entropy,
                   1 / pairs_of_all);
  if (first_pass) totals_.MeasureGap(batch, packed, scores.logprob);
  totals_.MeasureDivergence(packed, scores.logprob);
  const absl::Time half = clock_->Now();
  losses.sum().div(pairs_of_all).backward();
  forward_time_ += half - start;
  backward_time_ += clock_->Now() - half;
  return absl::OkStatus();
}

}  // namespace rollcall::learner
