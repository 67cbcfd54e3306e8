// The step of stage reward_model: values at the end of both sequences of a pair, and one update.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "common/model/attention_context.h"
#include "common/model/reward_position.h"
#include "services/learner/algorithms/reward_model_loss.h"
#include "services/learner/batching/packing.h"
#include "services/learner/trainer/trainer.h"
#include "services/learner/trainer/written_number.h"

namespace rollcall::learner {
namespace {

std::vector<std::vector<size_t>> PackPairs(const TrainBatch& batch, uint32_t token_budget) {
  std::vector<size_t> lengths;
  for (const TrainSequence& sequence : batch.sequences) {
    lengths.push_back(sequence.token_ids.size());
  }
  return PackTwosByTokens(lengths, token_budget);
}

at::Tensor Margins(const TrainBatch& batch, const std::vector<size_t>& places) {
  std::vector<float> margins;
  for (size_t i = 0; i < places.size(); i += 2) {
    margins.push_back(static_cast<float>(batch.sequences[places[i]].margin));
  }
  return at::tensor(margins);
}

// How probable it is that the first of each pair is the better one; undefined: it is, in all.
at::Tensor Preferences(const TrainBatch& batch, const std::vector<size_t>& places) {
  std::vector<float> preferences;
  bool soft = false;
  for (size_t i = 0; i < places.size(); i += 2) {
    preferences.push_back(static_cast<float>(batch.sequences[places[i]].preference));
    soft = soft || preferences.back() != 1;
  }
  return soft ? at::tensor(preferences) : at::Tensor();
}

}  // namespace

absl::StatusOr<at::Tensor> Trainer::Rewards(const TrainBatch& batch, const PackedBatch& packed) {
  if (on_forward_) on_forward_();
  ROLLCALL_ASSIGN_OR_RETURN(model::PackedAttention attention,
                            model::PackedAttention::Create(packed.cu_seqlens));
  const at::Device device = decoder_.device();
  std::vector<int64_t> rows;
  for (size_t i = 0; i < packed.sequences.size(); ++i) {
    const std::vector<uint32_t>& ids = batch.sequences[packed.sequences[i]].token_ids;
    rows.push_back(packed.cu_seqlens[i] + static_cast<int64_t>(model::RewardPosition(
                                              ids, decoder_.config().pad_token_id)));
  }
  const at::Tensor hidden = decoder_.Forward(at::tensor(packed.token_ids).to(device),
                                             at::tensor(packed.positions).to(device), attention);
  return decoder_.Values(hidden.index_select(0, at::tensor(rows).to(device)));
}

absl::StatusOr<at::Tensor> Trainer::PairLosses(const TrainBatch& batch,
                                               const std::vector<size_t>& places,
                                               PairTotals& totals) {
  const PackedBatch packed = Pack(batch, places);
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor rewards, Rewards(batch, packed));
  const at::Tensor pairs = rewards.reshape({-1, 2});
  const at::Tensor chosen = pairs.select(1, 0), rejected = pairs.select(1, 1);
  const at::Tensor margins = Margins(batch, places).to(decoder_.device());
  const double centering = WrittenNumber(config_.learner().reward_centering());
  at::Tensor losses = RewardModelLoss(chosen, rejected, margins, centering);
  if (at::Tensor preference = Preferences(batch, places); preference.defined()) {
    preference = preference.to(decoder_.device());
    losses =
        losses.mul(preference)
            .add(
                RewardModelLoss(rejected, chosen, margins, centering).mul(preference.neg().add(1)));
  }
  totals.AddPairs(chosen, rejected, losses);
  return losses;
}

absl::Status Trainer::TrainRewardModel(const TrainBatch& batch, StepReport& report, double lr) {
  const auto own = static_cast<double>(batch.sequences.size() / 2);
  at::Tensor count = at::tensor(std::vector<double>{own});
  ROLLCALL_RETURN_IF_ERROR(group_->AllReduceSum(count));
  const double all = count.item<double>();
  PairTotals totals;
  for (const std::vector<size_t>& places :
       PackPairs(batch, config_.learner().micro_batch_tokens())) {
    const at::AutoGradMode grad_mode(true);
    const absl::Time start = clock_->Now();
    const double loss_before = totals.loss();
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor losses, PairLosses(batch, places, totals));
    const absl::Time half = clock_->Now();
    losses.sum().div(all).backward();
    forward_time_ += half - start;
    backward_time_ += clock_->Now() - half;
    uint64_t tokens = 0;
    for (const size_t place : places) tokens += batch.sequences[place].token_ids.size();
    totals_.AddMicroBatch(tokens, (totals.loss() - loss_before) / all);
  }
  const double loss = totals.loss() / all;
  ROLLCALL_RETURN_IF_ERROR(totals.SumOverRanks(*group_));
  totals.Report("train/", report.metrics);
  return Update(loss, lr);
}

absl::StatusOr<std::map<std::string, double>> Trainer::EvaluateRewards(const TrainBatch& batch) {
  const at::NoGradGuard no_grad;
  PairTotals totals;
  for (const std::vector<size_t>& places :
       PackPairs(batch, config_.learner().micro_batch_tokens())) {
    ROLLCALL_RETURN_IF_ERROR(PairLosses(batch, places, totals).status());
  }
  std::map<std::string, double> metrics;
  totals.Report("eval/", metrics);
  metrics["eval/loss"] = totals.loss() / totals.count();
  metrics["eval/pairs"] = totals.count();
  return metrics;
}

}  // namespace rollcall::learner
