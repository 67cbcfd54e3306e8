// The step of stages dpo, simpo, orpo and kto: one update from recorded preferences, and the figures
// of held-out ones.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <vector>

#include "common/base/status.h"
#include "common/tensor/torch_call.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {

absl::StatusOr<PreferenceScale> Trainer::ScalePreferences(const TrainBatch& batch,
                                                          ProcessGroup& group) {
  PreferenceScale own = CountPreferences(*preferences_, batch);
  double log_ratios = 0;
  if (preferences_->kl_baseline) {
    const at::NoGradGuard no_grad;
    for (const std::vector<size_t>& places :
         PackMismatched(batch, config_.learner().micro_batch_tokens())) {
      const PackedBatch packed = Pack(batch, places);
      ROLLCALL_ASSIGN_OR_RETURN(const model::TokenScores scores,
                                Score(decoder_, packed, model::EntropyMode::kNone));
      log_ratios += LogRatioSum(packed, scores.logprob);
    }
  }
  at::Tensor sums = at::tensor(std::vector<double>{own.units, own.likelihood_tokens, log_ratios});
  ROLLCALL_RETURN_IF_ERROR(group.AllReduceSum(sums));
  const double* all = sums.const_data_ptr<double>();
  return PreferenceScale{
      .units = all[0], .likelihood_tokens = all[1], .kl = KlBaseline(all[2], all[0])};
}

absl::Status Trainer::TrainPreferences(const TrainBatch& batch, StepReport& report, double lr) {
  const absl::Time begin = clock_->Now();
  ROLLCALL_ASSIGN_OR_RETURN(const PreferenceScale scale, ScalePreferences(batch, *group_));
  forward_time_ += clock_->Now() - begin;
  PreferencePass pass(*preferences_, batch, scale);
  for (const std::vector<size_t>& places :
       PackPreferences(*preferences_, batch, config_.learner().micro_batch_tokens())) {
    const at::AutoGradMode grad_mode(true);
    const absl::Time start = clock_->Now();
    const PackedBatch packed = Pack(batch, places);
    ROLLCALL_ASSIGN_OR_RETURN(const model::TokenScores scores,
                              Score(decoder_, packed, model::EntropyMode::kDetached));
    const double loss_before = pass.loss();
    const at::Tensor share = pass.Add(packed, scores.logprob);
    totals_.AddMicroBatch(packed.token_ids.size(), pass.loss() - loss_before, scores.entropy);
    const absl::Time half = clock_->Now();
    share.backward();
    forward_time_ += half - start;
    backward_time_ += clock_->Now() - half;
  }
  const double loss = pass.loss();
  ROLLCALL_RETURN_IF_ERROR(pass.SumOverRanks(*group_));
  pass.Report("train/", report.metrics);
  return Update(loss, lr);
}

absl::StatusOr<std::map<std::string, double>> Trainer::EvaluatePreferences(
    const TrainBatch& batch) {
  const at::NoGradGuard no_grad;
  SingleProcess alone;  // what is held out is not divided between the ranks
  ROLLCALL_ASSIGN_OR_RETURN(const PreferenceScale scale, ScalePreferences(batch, alone));
  PreferencePass pass(*preferences_, batch, scale);
  for (const std::vector<size_t>& places :
       PackPreferences(*preferences_, batch, config_.learner().micro_batch_tokens())) {
    const PackedBatch packed = Pack(batch, places);
    ROLLCALL_ASSIGN_OR_RETURN(const model::TokenScores scores,
                              Score(decoder_, packed, model::EntropyMode::kNone));
    pass.Add(packed, scores.logprob);
  }
  std::map<std::string, double> metrics;
  pass.Report("eval/", metrics);
  metrics["eval/loss"] = pass.loss();
  metrics[preferences_->takes_pairs() ? "eval/pairs" : "eval/completions"] = scale.units;
  return metrics;
}

absl::StatusOr<std::map<std::string, double>> Trainer::EvaluatePairs(const TrainBatch& batch) {
  ROLLCALL_RETURN_IF_ERROR(CheckBatch(batch, Requirements()));
  return tensor::TorchCall([&]() -> absl::StatusOr<std::map<std::string, double>> {
    return preferences_.has_value() ? EvaluatePreferences(batch) : EvaluateRewards(batch);
  });
}

}  // namespace rollcall::learner
