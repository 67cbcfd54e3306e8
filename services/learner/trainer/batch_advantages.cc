#include "services/learner/trainer/batch_advantages.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/algorithms/token_advantage.h"
#include "services/learner/trainer/step_totals.h"

namespace rollcall::learner {
namespace {

// The scored sequences of a batch; tokens in the loss of all of them laid end to end.
struct Scored {
  std::vector<size_t> places;
  std::vector<double> rewards;  // shaped
  std::vector<int64_t> groups, lengths, sequence_of;
  std::vector<float> behavior, reference, values;
};

int64_t LossTokens(const TrainSequence& sequence) {
  return std::count_if(sequence.loss_mask.begin(), sequence.loss_mask.end(),
                       [](uint8_t mask) { return mask != 0; });
}

Scored CollectScored(const Objective& objective, const TrainBatch& batch, bool with_reference,
                     const std::vector<std::vector<float>>* values) {
  Scored scored;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const TrainSequence& sequence = batch.sequences[i];
    if (!sequence.reward.has_value()) continue;
    const int64_t length = LossTokens(sequence);
    scored.sequence_of.insert(scored.sequence_of.end(), static_cast<size_t>(length),
                              static_cast<int64_t>(scored.places.size()));
    for (size_t t = 0; with_reference && t < sequence.loss_mask.size(); ++t) {
      if (sequence.loss_mask[t] == 0) continue;
      scored.behavior.push_back(sequence.behavior_logprobs[t]);
      scored.reference.push_back(sequence.reference_logprobs[t]);
    }
    // A sequence without a token in the loss was not shown to the critic.
    if (values != nullptr && length > 0) {
      scored.values.insert(scored.values.end(), (*values)[i].begin(), (*values)[i].end());
    }
    scored.places.push_back(i);
    scored.rewards.push_back(ShapedReward(objective, sequence));
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

// How many completions the overlong punishment met.
void ReportOverlong(const Objective& objective, const Scored& scored,
                    std::map<std::string, double>& metrics) {
  if (objective.overlong.buffer <= 0) return;
  const auto punished = std::count_if(
      scored.lengths.begin(), scored.lengths.end(),
      [&](int64_t length) { return OverlongPunishment(length, objective.overlong) < 0; });
  metrics["train/overlong_fraction"] =
      static_cast<double>(punished) / static_cast<double>(scored.lengths.size());
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

// One minus the share of the returns' variance that the values leave: 1 for a perfect critic, 0 for
// a constant.
double ExplainedVariance(const at::Tensor& values, const at::Tensor& returns) {
  const double all = returns.var(/*unbiased=*/false).item<double>();
  return all > 0 ? 1 - returns.sub(values).var(/*unbiased=*/false).item<double>() / all : 0.0;
}

// The prompt's greedy reward for each token, shaped as the rewards it is compared with.
absl::StatusOr<at::Tensor> GreedyBaselines(const Objective& objective, const TrainBatch& batch,
                                           const Scored& scored) {
  std::vector<double> baselines;
  for (const size_t place : scored.places) {
    const TrainSequence& sequence = batch.sequences[place];
    if (!sequence.greedy_reward.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat("group ", sequence.group_id, ": has no reward of a greedy completion"));
    }
    TrainSequence greedy;
    greedy.reward = sequence.greedy_reward;
    greedy.truncated = sequence.greedy_truncated;
    greedy.loss_mask.assign(sequence.greedy_tokens, 1);
    baselines.push_back(ShapedReward(objective, greedy));
  }
  return at::tensor(baselines, at::kDouble)
      .index_select(0, at::tensor(scored.sequence_of, at::kLong));
}

struct TokenEstimate {
  at::Tensor advantages;  // [tokens], float64
  at::Tensor returns;     // likewise; undefined without a critic
};

// Advantages from the rewards of tokens: the score at the last one, the KL at each.
absl::StatusOr<TokenEstimate> FromTokenRewards(const Objective& objective, const TrainBatch& batch,
                                               const Scored& scored, const at::Tensor& kl,
                                               double kl_coefficient,
                                               std::map<std::string, double>& metrics) {
  const at::Tensor mask = at::ones_like(kl);
  at::Tensor rewards = TokenRewards(at::tensor(scored.rewards, at::kDouble), kl, mask,
                                    scored.lengths, kl_coefficient);
  if (objective.whiten_rewards) rewards = Whiten(rewards, mask, {.keep_mean = true});
  if (objective.needs_critic()) {
    const at::Tensor values = at::tensor(scored.values, at::kFloat).to(at::kDouble);
    const GaeEstimate estimate =
        GeneralizedAdvantages(rewards, values, mask, scored.lengths,
                              {.gamma = objective.gamma, .lambda = objective.gae_lambda});
    if (values.numel() > 0) {
      metrics["train/value_mean"] = values.mean().item<double>();
      metrics["train/explained_variance"] = ExplainedVariance(values, estimate.returns);
    }
    return TokenEstimate{.advantages = estimate.advantages, .returns = estimate.returns};
  }
  at::Tensor advantages =
      RewardToGo(rewards, mask, scored.lengths, objective.gamma, GapRule::kCarryOver);
  if (objective.needs_greedy()) {
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor baselines,
                              GreedyBaselines(objective, batch, scored));
    advantages = GreedyBaselineAdvantages(advantages, baselines);
  }
  return TokenEstimate{.advantages = advantages, .returns = {}};
}

absl::StatusOr<TokenEstimate> Estimate(const Objective& objective, const TrainBatch& batch,
                                       const Scored& scored, const at::Tensor& kl,
                                       double kl_coefficient,
                                       std::map<std::string, double>& metrics) {
  TokenEstimate estimate;
  if (objective.token_rewards()) {
    ROLLCALL_ASSIGN_OR_RETURN(
        estimate, FromTokenRewards(objective, batch, scored, kl, kl_coefficient, metrics));
  } else {
    const at::Tensor rewards = at::tensor(scored.rewards, at::kDouble);
    const at::Tensor owners = at::tensor(scored.sequence_of, at::kLong);
    const at::Tensor shaped =
        rewards.sub(at::zeros_like(rewards).index_add(0, owners, kl), kl_coefficient);
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor of_sequences,
                              SequenceAdvantages(objective, scored, shaped));
    estimate.advantages = of_sequences.index_select(0, owners);
  }
  if (objective.advantage.normalization == v1::ADVANTAGE_NORMALIZATION_WHITEN) {
    estimate.advantages = Whiten(estimate.advantages, at::ones_like(kl));
  }
  return estimate;
}

// A [tokens] tensor as one column per sequence of the batch.
std::vector<std::vector<float>> PerSequence(const at::Tensor& of_tokens, const Scored& scored,
                                            size_t sequences) {
  std::vector<std::vector<float>> columns(sequences);
  const at::Tensor dense = of_tokens.contiguous();
  const double* value = dense.const_data_ptr<double>();
  for (size_t i = 0; i < scored.places.size(); ++i) {
    for (int64_t t = 0; t < scored.lengths[i]; ++t) {
      columns[scored.places[i]].push_back(static_cast<float>(*value++));
    }
  }
  return columns;
}

}  // namespace

double ShapedReward(const Objective& objective, const TrainSequence& sequence) {
  double reward = *sequence.reward;
  if (objective.reward_clip > 0) {
    reward = std::clamp(reward, -objective.reward_clip, objective.reward_clip);
  }
  if (sequence.truncated) reward -= objective.missing_eos_penalty;
  return reward + OverlongPunishment(LossTokens(sequence), objective.overlong);
}

absl::StatusOr<BatchAdvantages> ComputeBatchAdvantages(
    const Objective& objective, const TrainBatch& batch,
    const std::vector<std::vector<float>>* values, double kl_coefficient,
    std::map<std::string, double>& metrics) {
  const bool takes_kl = objective.kl_in_reward && objective.needs_reference();
  const Scored scored = CollectScored(objective, batch, takes_kl, values);
  if (scored.places.empty()) return absl::InvalidArgumentError("batch: no sequence has a reward");
  BatchAdvantages result;
  result.scored_sequences = scored.places.size();
  ReportOverlong(objective, scored, metrics);
  const at::Tensor kl = TokenKl(objective, scored, result);
  ROLLCALL_ASSIGN_OR_RETURN(const TokenEstimate estimate,
                            Estimate(objective, batch, scored, kl, kl_coefficient, metrics));
  result.of_tokens = PerSequence(estimate.advantages, scored, batch.sequences.size());
  if (estimate.returns.defined()) {
    result.returns = PerSequence(estimate.returns, scored, batch.sequences.size());
  }
  std::vector<float> means;
  for (const std::vector<float>& tokens : result.of_tokens) {
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
