#include "services/learner/trainer/preference_pass.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "common/base/status.h"
#include "services/learner/batching/packing.h"
#include "services/learner/trainer/sequence_sums.h"

namespace rollcall::learner {
namespace {

std::vector<size_t> Lengths(const TrainBatch& batch) {
  std::vector<size_t> lengths;
  for (const TrainSequence& sequence : batch.sequences) {
    lengths.push_back(sequence.token_ids.size());
  }
  return lengths;
}

// Every other place, beginning with `first`.
std::vector<std::vector<size_t>> PackEveryOther(const TrainBatch& batch, size_t first,
                                                size_t token_budget) {
  std::vector<size_t> lengths;
  for (size_t i = first; i < batch.sequences.size(); i += 2) {
    lengths.push_back(batch.sequences[i].token_ids.size());
  }
  std::vector<std::vector<size_t>> micro_batches = PackByTokens(lengths, token_budget);
  for (std::vector<size_t>& places : micro_batches) {
    for (size_t& place : places) place = 2 * place + first;
  }
  return micro_batches;
}

// [loss tokens]: 1 where the token belongs to the completion that is compared, else 0.
std::vector<float> Compared(const TrainBatch& batch, const PackedBatch& packed) {
  std::vector<float> compared;
  for (const size_t place : packed.sequences) {
    const TrainSequence& sequence = batch.sequences[place];
    for (size_t t = 0; t < sequence.loss_mask.size(); ++t) {
      if (sequence.loss_mask[t] == 0) continue;
      const bool only = !sequence.likelihood_only.empty() && sequence.likelihood_only[t] != 0;
      compared.push_back(only ? 0.0f : 1.0f);
    }
  }
  return compared;
}

CompletionLogprobs Side(const CompletionLogprobs& all, int64_t side) {
  const auto select = [side](const at::Tensor& column) {
    return column.defined() ? column.reshape({-1, 2}).select(1, side) : at::Tensor();
  };
  return {.policy = select(all.policy),
          .reference = select(all.reference),
          .tokens = select(all.tokens)};
}

}  // namespace

PreferenceScale CountPreferences(const PreferenceObjective& objective, const TrainBatch& batch) {
  PreferenceScale scale;
  scale.units = static_cast<double>(batch.sequences.size() / 2);
  if (!objective.takes_pairs()) return scale;
  for (size_t i = 0; i < batch.sequences.size(); i += 2) {
    const std::vector<uint8_t>& mask = batch.sequences[i].loss_mask;
    scale.likelihood_tokens += static_cast<double>(
        std::count_if(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; }));
  }
  return scale;
}

std::vector<std::vector<size_t>> PackPreferences(const PreferenceObjective& objective,
                                                 const TrainBatch& batch, size_t token_budget) {
  return objective.takes_pairs() ? PackTwosByTokens(Lengths(batch), token_budget)
                                 : PackEveryOther(batch, 0, token_budget);
}

std::vector<std::vector<size_t>> PackMismatched(const TrainBatch& batch, size_t token_budget) {
  return PackEveryOther(batch, 1, token_budget);
}

double LogRatioSum(const PackedBatch& packed, const at::Tensor& logprobs) {
  const at::Tensor reference = at::tensor(packed.reference_logprobs).to(logprobs.device());
  return SumPerSequence(packed, logprobs.detach())
      .sub(SumPerSequence(packed, reference))
      .to(at::kDouble)
      .sum()
      .item<double>();
}

CompletionLogprobs PreferencePass::Completions(const PackedBatch& packed,
                                               const at::Tensor& logprobs) const {
  const at::Tensor compared = at::tensor(Compared(batch_, packed)).to(logprobs.device());
  CompletionLogprobs completions;
  completions.policy = SumPerSequence(packed, logprobs.mul(compared));
  completions.tokens = SumPerSequence(packed, compared);
  if (objective_.needs_reference()) {
    const at::Tensor reference = at::tensor(packed.reference_logprobs).to(logprobs.device());
    completions.reference = SumPerSequence(packed, reference.mul(compared));
  }
  return completions;
}

at::Tensor PreferencePass::PreferencesOf(const PackedBatch& packed, const at::Tensor& like) const {
  std::vector<float> values;
  for (const size_t place : packed.sequences) {
    if (place % 2 == 0) values.push_back(static_cast<float>(batch_.sequences[place].preference));
  }
  return at::tensor(values).to(like.options());
}

void PreferencePass::AddLogprobs(const at::Tensor& shown, bool chosen) {
  auto& side = chosen ? chosen_logprobs_ : rejected_logprobs_;
  side.sum += shown.to(at::kDouble).sum().item<double>();
  side.count += static_cast<double>(shown.numel());
}

at::Tensor PreferencePass::Add(const PackedBatch& packed, const at::Tensor& logprobs) {
  const at::Tensor share =
      objective_.takes_pairs() ? AddPairs(packed, logprobs) : AddLabelled(packed, logprobs);
  loss_ += share.item<double>();
  return share;
}

at::Tensor PreferencePass::AddPairs(const PackedBatch& packed, const at::Tensor& logprobs) {
  const CompletionLogprobs all = Completions(packed, logprobs);
  const CompletionLogprobs chosen = Side(all, 0), rejected = Side(all, 1);
  at::Tensor preference = PreferencesOf(packed, all.policy);
  if (preference.eq(1).all().item<bool>()) preference = at::Tensor();
  const PreferenceLosses pairs = LossesOfPairs(objective_, chosen, rejected, preference);
  totals_.AddPairs(pairs.chosen_rewards, pairs.rejected_rewards, pairs.losses);
  const bool means = objective_.means || objective_.kind == PreferenceObjective::Kind::kOddsRatio;
  for (const bool first : {true, false}) {
    const CompletionLogprobs& side = first ? chosen : rejected;
    const at::Tensor sums = side.policy.detach();
    AddLogprobs(means ? sums.div(side.tokens) : sums, first);
  }
  // Every token in the loss of the chosen completions, whether it is compared or not.
  const at::Tensor likelihood =
      SumPerSequence(packed, logprobs).reshape({-1, 2}).select(1, 0).sum();
  likelihood_ += likelihood.detach().item<double>();
  for (size_t i = 0; i < packed.token_counts.size(); i += 2) {
    likelihood_tokens_ += static_cast<double>(packed.token_counts[i]);
  }
  const at::Tensor share = pairs.losses.sum().mul(objective_.preference_weight / scale_.units);
  if (objective_.likelihood_weight == 0) return share;
  return share.sub(likelihood.mul(objective_.likelihood_weight / scale_.likelihood_tokens));
}

at::Tensor PreferencePass::AddLabelled(const PackedBatch& packed, const at::Tensor& logprobs) {
  const CompletionLogprobs completions = Completions(packed, logprobs);
  const at::Tensor desirable = PreferencesOf(packed, completions.policy);
  const PreferenceLosses labelled = LossesOfLabelled(objective_, completions, desirable, scale_.kl);
  totals_.AddLabelled(labelled.chosen_rewards, desirable, labelled.losses);
  const at::Tensor sums = completions.policy.detach();
  AddLogprobs(sums.masked_select(desirable.gt(0.5)), true);
  AddLogprobs(sums.masked_select(desirable.le(0.5)), false);
  return labelled.losses.sum().div(scale_.units);
}

absl::Status PreferencePass::SumOverRanks(ProcessGroup& group) {
  ROLLCALL_RETURN_IF_ERROR(totals_.SumOverRanks(group));
  at::Tensor sums = at::tensor(std::vector<double>{chosen_logprobs_.sum, chosen_logprobs_.count,
                                                   rejected_logprobs_.sum, rejected_logprobs_.count,
                                                   likelihood_, likelihood_tokens_});
  ROLLCALL_RETURN_IF_ERROR(group.AllReduceSum(sums));
  const double* all = sums.const_data_ptr<double>();
  chosen_logprobs_ = {all[0], all[1]};
  rejected_logprobs_ = {all[2], all[3]};
  likelihood_ = all[4];
  likelihood_tokens_ = all[5];
  return absl::OkStatus();
}

void PreferencePass::Report(const std::string& prefix,
                            std::map<std::string, double>& metrics) const {
  totals_.Report(prefix, metrics);
  if (totals_.count() > 0) metrics[prefix + "preference_loss"] = totals_.loss() / totals_.count();
  if (chosen_logprobs_.count > 0) {
    metrics[prefix + "chosen_logprob"] = chosen_logprobs_.sum / chosen_logprobs_.count;
  }
  if (rejected_logprobs_.count > 0) {
    metrics[prefix + "rejected_logprob"] = rejected_logprobs_.sum / rejected_logprobs_.count;
  }
  if (!objective_.takes_pairs()) {
    metrics[prefix + "kl"] = scale_.kl;
  } else if (likelihood_tokens_ > 0) {
    metrics[prefix + "sft_loss"] = -likelihood_ / likelihood_tokens_;
  }
}

}  // namespace rollcall::learner
