#include "services/learner/trainer/batch_advantages.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <numeric>

#include "common/base/status.h"
#include "services/learner/algorithms/token_advantage.h"
#include "services/learner/trainer/step_totals.h"

namespace rollcall::learner {
namespace {

// The scored sequences of a batch; tokens in the loss of all of them laid end to end.
struct Scored {
  std::vector<size_t> places;
  std::vector<double> rewards;
  std::vector<int64_t> groups, lengths, sequence_of;
  std::vector<float> behavior, reference;
};

Scored CollectScored(const TrainBatch& batch, bool with_reference) {
  Scored scored;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const TrainSequence& sequence = batch.sequences[i];
    if (!sequence.reward.has_value()) continue;
    int64_t length = 0;
    for (size_t t = 0; t < sequence.loss_mask.size(); ++t) {
      if (sequence.loss_mask[t] == 0) continue;
      ++length;
      scored.sequence_of.push_back(static_cast<int64_t>(scored.places.size()));
      if (!with_reference) continue;
      scored.behavior.push_back(sequence.behavior_logprobs[t]);
      scored.reference.push_back(sequence.reference_logprobs[t]);
    }
    scored.places.push_back(i);
    scored.rewards.push_back(*sequence.reward);
    scored.groups.push_back(static_cast<int64_t>(sequence.group_id));
    scored.lengths.push_back(length);
  }
  return scored;
}

// [sequences]
absl::StatusOr<at::Tensor> SequenceAdvantages(const Objective& objective, const Scored& scored,
                                              const at::Tensor& rewards) {
  const at::Tensor groups = at::tensor(scored.groups, at::kLong);
  switch (objective.baseline) {
    case v1::ADVANTAGE_BASELINE_LEAVE_ONE_OUT: {
      ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor result, LeaveOneOutAdvantages(rewards, groups));
      return objective.advantage.normalization == v1::ADVANTAGE_NORMALIZATION_BATCH_STD
                 ? BatchNormalized(result, objective.advantage.epsilon)
                 : result;
    }
    case v1::ADVANTAGE_BASELINE_LENGTH_WEIGHTED: {
      ROLLCALL_ASSIGN_OR_RETURN(
          const at::Tensor result,
          LengthWeightedAdvantages(rewards, groups, at::tensor(scored.lengths, at::kLong)));
      return objective.advantage.normalization == v1::ADVANTAGE_NORMALIZATION_BATCH_STD
                 ? BatchNormalized(result, objective.advantage.epsilon)
                 : result;
    }
    default:
      return GroupNormalizedAdvantages(rewards, groups, objective.advantage);
  }
}

// Rewards with the overlong punishment; counts whom it met.
at::Tensor PunishedRewards(const Objective& objective, const Scored& scored,
                           std::map<std::string, double>& metrics) {
  std::vector<double> rewards = scored.rewards;
  double punished = 0;
  for (size_t i = 0; i < rewards.size(); ++i) {
    const double punishment = OverlongPunishment(scored.lengths[i], objective.overlong);
    rewards[i] += punishment;
    punished += punishment < 0 ? 1 : 0;
  }
  if (objective.overlong.buffer > 0) {
    metrics["train/overlong_fraction"] = punished / static_cast<double>(rewards.size());
  }
  return at::tensor(rewards, at::kDouble);
}

// [tokens], float64; zeros without a KL in the reward.
at::Tensor TokenKl(const Objective& objective, const Scored& scored, BatchAdvantages& result) {
  const auto tokens = static_cast<int64_t>(scored.sequence_of.size());
  if (!objective.kl_in_reward || !objective.needs_reference() || tokens == 0) {
    return at::tensor(std::vector<double>(scored.sequence_of.size(), 0.0), at::kDouble);
  }
  const at::Tensor kl =
      EstimateKl(objective.kl, at::tensor(scored.behavior, at::kFloat).to(at::kDouble),
                 at::tensor(scored.reference, at::kFloat).to(at::kDouble));
  const double* values = kl.const_data_ptr<double>();
  double sum_of_means = 0;
  size_t token = 0;
  for (const int64_t length : scored.lengths) {
    double sum = 0;
    for (int64_t i = 0; i < length; ++i) sum += values[token++];
    if (length > 0) sum_of_means += sum / static_cast<double>(length);
  }
  result.kl_of_sequences = sum_of_means / static_cast<double>(scored.lengths.size());
  result.kl_of_tokens = kl.mean().item<double>();
  return kl;
}

// One advantage per token, float64.
absl::StatusOr<at::Tensor> TokenAdvantages(const Objective& objective, const Scored& scored,
                                           const at::Tensor& rewards, const at::Tensor& kl,
                                           double kl_coefficient) {
  const at::Tensor mask = at::ones_like(kl);
  at::Tensor advantages;
  if (objective.baseline == v1::ADVANTAGE_BASELINE_NONE) {
    advantages = RewardToGo(TokenRewards(rewards, kl, mask, scored.lengths, kl_coefficient), mask,
                            scored.lengths, objective.gamma, GapRule::kDropMaskedRewards);
  } else {
    const at::Tensor owners = at::tensor(scored.sequence_of, at::kLong);
    const at::Tensor shaped =
        rewards.sub(at::zeros_like(rewards).index_add(0, owners, kl), kl_coefficient);
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor of_sequences,
                              SequenceAdvantages(objective, scored, shaped));
    advantages = of_sequences.index_select(0, owners);
  }
  return objective.advantage.normalization == v1::ADVANTAGE_NORMALIZATION_WHITEN
             ? Whiten(advantages, mask)
             : advantages;
}

}  // namespace

absl::StatusOr<BatchAdvantages> ComputeBatchAdvantages(const Objective& objective,
                                                       const TrainBatch& batch,
                                                       double kl_coefficient,
                                                       std::map<std::string, double>& metrics) {
  const bool takes_kl = objective.kl_in_reward && objective.needs_reference();
  const Scored scored = CollectScored(batch, takes_kl);
  if (scored.places.empty()) return absl::InvalidArgumentError("batch: no sequence has a reward");
  BatchAdvantages result;
  result.scored_sequences = scored.places.size();
  const at::Tensor kl = TokenKl(objective, scored, result);
  ROLLCALL_ASSIGN_OR_RETURN(
      const at::Tensor advantages,
      TokenAdvantages(objective, scored, PunishedRewards(objective, scored, metrics), kl,
                      kl_coefficient));
  result.of_tokens.resize(batch.sequences.size());
  const double* value = advantages.const_data_ptr<double>();
  std::vector<float> means;
  for (size_t i = 0; i < scored.places.size(); ++i) {
    std::vector<float>& tokens = result.of_tokens[scored.places[i]];
    for (int64_t t = 0; t < scored.lengths[i]; ++t) tokens.push_back(static_cast<float>(*value++));
    if (tokens.empty()) continue;
    means.push_back(std::accumulate(tokens.begin(), tokens.end(), 0.0f) /
                    static_cast<float>(tokens.size()));
  }
  ReportAdvantages(means, metrics);
  if (takes_kl) {
    metrics["train/kl"] = result.kl_of_tokens;
    metrics["train/kl_coefficient"] = kl_coefficient;
  }
  return result;
}

}  // namespace rollcall::learner
