// Each preset through the real trainer, against its paper's formula worked out here token by token:
// a preset that loses its defining term no longer equals it.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/config/algorithm_presets.h"
#include "common/model/attention_context.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using testing::CopyParameters;
using testing::ExpectSameBits;
using testing::NewDecoder;
using testing::NewPresetTrainer;
using testing::PresetRun;
using testing::RolloutBatch;
using testing::TinyModel;

constexpr uint32_t kMaxTokens = 12;

// A sequence of the batch in float64: its tokens in the loss.
struct Row {
  uint64_t group = 0;
  double reward = 0, greedy = 0;
  std::vector<double> logprobs, old, reference, values;

  size_t tokens() const { return logprobs.size(); }
  double ratio(size_t t) const { return std::exp(logprobs[t] - old[t]); }
  double log_ratio_sum() const {
    double sum = 0;
    for (size_t t = 0; t < tokens(); ++t) sum += logprobs[t] - old[t];
    return sum;
  }
  double rollout_kl(size_t from = 0) const {
    double sum = 0;
    for (size_t t = from; t < tokens(); ++t) sum += old[t] - reference[t];
    return sum;
  }
  double log_prob_over_reference() const {
    double sum = 0;
    for (size_t t = 0; t < tokens(); ++t) sum += logprobs[t] - reference[t];
    return sum;
  }
};

// What the critic says after each token.
std::vector<float> ValuesOf(model::Decoder& critic, const std::vector<uint32_t>& tokens) {
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  auto attention = model::PackedAttention::Create({0, static_cast<int64_t>(ids.size())}).value();
  const at::Tensor values =
      critic.Values(critic.Forward(at::tensor(ids), attention.Positions(), attention));
  const float* data = values.const_data_ptr<float>();
  return {data, data + values.numel()};
}

std::vector<Row> RowsOf(model::Decoder& decoder, const TrainBatch& batch) {
  model::Decoder critic = testing::NewCritic(7);
  std::vector<Row> rows;
  for (const TrainSequence& sequence : batch.sequences) {
    const std::vector<float> logprobs = testing::LogprobsOf(decoder, sequence.token_ids);
    const std::vector<float> values = ValuesOf(critic, sequence.token_ids);
    Row row{
        .group = sequence.group_id, .reward = *sequence.reward, .greedy = *sequence.greedy_reward};
    for (size_t i = 0; i < logprobs.size(); ++i) {
      if (sequence.loss_mask[i] == 0) continue;
      row.logprobs.push_back(logprobs[i]);
      row.old.push_back(sequence.behavior_logprobs[i]);
      row.reference.push_back(sequence.reference_logprobs[i]);
      row.values.push_back(values[i - 1]);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

using RowValue = std::function<double(const Row&)>;

// Sum of `value` over the group of `row`.
double GroupSum(const std::vector<Row>& rows, const Row& row, const RowValue& value) {
  double sum = 0;
  for (const Row& other : rows) sum += other.group == row.group ? value(other) : 0;
  return sum;
}

double Centred(const std::vector<Row>& rows, const Row& row) {
  return row.reward - GroupSum(rows, row, [](const Row& r) { return r.reward; }) / 4;
}

double GroupStandardised(const std::vector<Row>& rows, const Row& row) {
  const double squares =
      GroupSum(rows, row, [&](const Row& r) { return std::pow(Centred(rows, r), 2); });
  return Centred(rows, row) / (std::sqrt(squares / 3) + 1e-4);
}

double Clipped(double advantage, double ratio, double low, double high) {
  return -std::min(advantage * ratio, advantage * std::clamp(ratio, 1 - low, 1 + high));
}

size_t AllTokens(const std::vector<Row>& rows) {
  size_t tokens = 0;
  for (const Row& row : rows) tokens += row.tokens();
  return tokens;
}

// loss(row, t) over all tokens, each row times weight(row).
double Total(const std::vector<Row>& rows, const RowValue& weight,
             const std::function<double(const Row&, size_t)>& loss) {
  double total = 0;
  for (const Row& row : rows) {
    for (size_t t = 0; t < row.tokens(); ++t) total += weight(row) * loss(row, t);
  }
  return total;
}

// (x - mean) / std over tokens, each row's value repeated.
RowValue WhitenedOverTokens(const std::vector<Row>& rows, const RowValue& value) {
  const auto n = static_cast<double>(AllTokens(rows));
  double mean = 0, squares = 0;
  for (const Row& row : rows) mean += static_cast<double>(row.tokens()) * value(row) / n;
  for (const Row& row : rows) {
    squares += static_cast<double>(row.tokens()) * std::pow(value(row) - mean, 2);
  }
  const double scale = 1 / std::sqrt(squares / (n - 1) + 1e-8);
  return [=](const Row& row) { return (value(row) - mean) * scale; };
}

// The clipped surrogate of whitened advantages, one per token, as a mean over tokens.
double WhitenedSurrogate(const std::vector<Row>& rows, const std::vector<double>& advantages) {
  double mean = 0, squares = 0, total = 0;
  const auto n = static_cast<double>(advantages.size());
  for (const double value : advantages) mean += value / n;
  for (const double value : advantages) squares += std::pow(value - mean, 2);
  size_t place = 0;
  for (const Row& row : rows) {
    for (size_t t = 0; t < row.tokens(); ++t) {
      const double advantage = (advantages[place++] - mean) / std::sqrt(squares / (n - 1) + 1e-8);
      total += Clipped(advantage, row.ratio(t), 0.2, 0.2) / n;
    }
  }
  return total;
}

// REINFORCE++: reward at the last token, KL at each, summed from each token on, whitened.
double ReinforcePlusPlus(const std::vector<Row>& rows) {
  std::vector<double> returns;
  for (const Row& row : rows) {
    for (size_t t = 0; t < row.tokens(); ++t) {
      double sum = row.reward;
      for (size_t later = t; later < row.tokens(); ++later) {
        sum -= 0.01 * (row.old[later] - row.reference[later]);
      }
      returns.push_back(sum);
    }
  }
  return WhitenedSurrogate(rows, returns);
}

// GAE of the rewards with KL, lambda 0.95: advantages and what the critic is trained towards.
struct Gae {
  std::vector<double> advantages, returns, values;
};

Gae PpoEstimate(const std::vector<Row>& rows) {
  Gae gae;
  for (const Row& row : rows) {
    for (size_t t = 0; t < row.tokens(); ++t) {
      double advantage = 0, discount = 1;
      for (size_t later = t; later < row.tokens(); ++later) {
        const bool last = later + 1 == row.tokens();
        const double reward =
            (last ? row.reward : 0) - 0.05 * (row.old[later] - row.reference[later]);
        const double next = last ? 0 : row.values[later + 1];
        advantage += discount * (reward + next - row.values[later]);
        discount *= 0.95;
      }
      gae.advantages.push_back(advantage);
      gae.returns.push_back(advantage + row.values[t]);
      gae.values.push_back(row.values[t]);
    }
  }
  return gae;
}

// Online DPO: best against worst of each group.
double OnlineDpo(const std::vector<Row>& rows) {
  std::map<uint64_t, std::pair<const Row*, const Row*>> pairs;
  for (const Row& row : rows) {
    auto& [best, worst] = pairs.try_emplace(row.group, &row, &row).first->second;
    if (row.reward > best->reward) best = &row;
    if (row.reward < worst->reward) worst = &row;
  }
  double total = 0;
  for (const auto& [group, pair] : pairs) {
    const double margin =
        pair.first->log_prob_over_reference() - pair.second->log_prob_over_reference();
    total += std::log1p(std::exp(-0.1 * margin)) / static_cast<double>(pairs.size());
  }
  return total;
}

double PaperLoss(v1::AlgorithmPreset preset, const std::vector<Row>& rows) {
  const auto n = static_cast<double>(rows.size());
  const auto tokens = static_cast<double>(AllTokens(rows));
  const RowValue standard = [&](const Row& row) { return GroupStandardised(rows, row); };
  const RowValue per_token = [&](const Row&) { return 1 / tokens; };
  const RowValue per_row = [&](const Row& row) {
    return 1 / n / static_cast<double>(row.tokens());
  };
  const auto clipped = [](const RowValue& advantage, double high) {
    return
        [=](const Row& row, size_t t) { return Clipped(advantage(row), row.ratio(t), 0.2, high); };
  };
  switch (preset) {
    case v1::ALGORITHM_PRESET_GRPO:
      return Total(rows, per_row, [&](const Row& row, size_t t) {
        const double d = row.reference[t] - row.logprobs[t];
        return Clipped(standard(row), row.ratio(t), 0.2, 0.2) + 0.04 * (std::exp(d) - d - 1);
      });
    case v1::ALGORITHM_PRESET_DR_GRPO:
      return Total(
          rows, [&](const Row&) { return 1 / n / kMaxTokens; },
          clipped([&](const Row& row) { return Centred(rows, row); }, 0.2));
    case v1::ALGORITHM_PRESET_DAPO:
      return Total(rows, per_token, clipped(standard, 0.28));
    case v1::ALGORITHM_PRESET_GSPO:
      return Total(rows, per_row, [&](const Row& row, size_t) {
        const double ratio = std::exp(row.log_ratio_sum() / static_cast<double>(row.tokens()));
        return Clipped(standard(row), ratio, 3e-4, 4e-4);
      });
    case v1::ALGORITHM_PRESET_CISPO:
      return Total(rows, per_token, [&](const Row& row, size_t t) {
        return -std::min(row.ratio(t), 5.0) * standard(row) * row.logprobs[t];
      });
    case v1::ALGORITHM_PRESET_RLOO:
      return Total(rows, per_row, [&](const Row& row, size_t) {
        const RowValue shaped = [](const Row& r) { return r.reward - 0.05 * r.rollout_kl(); };
        const double others = (GroupSum(rows, row, shaped) - shaped(row)) / 3;
        return Clipped(shaped(row) - others, std::exp(row.log_ratio_sum()), 0.2, 0.2);
      });
    case v1::ALGORITHM_PRESET_REINFORCE_PP:
      return ReinforcePlusPlus(rows);
    case v1::ALGORITHM_PRESET_REINFORCE_PP_BASELINE: {
      const RowValue advantage =
          WhitenedOverTokens(rows, [&](const Row& row) { return Centred(rows, row); });
      return Total(rows, per_token, [&](const Row& row, size_t t) {
        const double d = row.logprobs[t] - row.reference[t];
        return Clipped(advantage(row), row.ratio(t), 0.2, 0.2) + 0.01 * d * d / 2;
      });
    }
    case v1::ALGORITHM_PRESET_OPO:
      return Total(rows, per_token,
                   clipped(
                       [&](const Row& row) {
                         const auto length = [](const Row& r) {
                           return static_cast<double>(r.tokens());
                         };
                         return row.reward - GroupSum(rows, row, [&](const Row& r) {
                                               return length(r) * r.reward;
                                             }) / GroupSum(rows, row, length);
                       },
                       0.2));
    case v1::ALGORITHM_PRESET_PPO:
      return WhitenedSurrogate(rows, PpoEstimate(rows).advantages);
    case v1::ALGORITHM_PRESET_REMAX:
      return Total(
          rows, [&](const Row&) { return 1 / n; },
          [](const Row& row, size_t t) {
            const double advantage = row.reward - row.greedy - 0.05 * row.rollout_kl(t);
            return -advantage * row.logprobs[t];
          });
    case v1::ALGORITHM_PRESET_ONLINE_DPO:
      return OnlineDpo(rows);
    case v1::ALGORITHM_PRESET_ITERATIVE_DPO:
      return std::log(2.0);  // the reference is the policy that the round starts from
    case v1::ALGORITHM_PRESET_DISTILLATION:
      return Total(rows, per_token, [](const Row& row, size_t t) {
        const double score = t + 1 == row.tokens() ? row.reward : 0;
        return Clipped(score - (row.old[t] - row.reference[t]), row.ratio(t), 0.2, 0.2);
      });
    default:
      return std::nan("");
  }
}

class Presets : public ::testing::TestWithParam<v1::AlgorithmPreset> {};

TEST_P(Presets, LossIsThatOfThePaper) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(decoder, 3, 3, /*drift=*/0.3);
  const double expected = PaperLoss(GetParam(), RowsOf(decoder, batch));
  const auto report =
      NewPresetTrainer(
          PresetRun(GetParam(), {"algorithm.epochs_per_batch=1", "algorithm.mini_batches=1"}),
          NewDecoder(TinyModel(), 1))
          ->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->metrics.at("train/loss"), expected, 1e-5 * std::max(1.0, std::abs(expected)));
}

TEST_P(Presets, TrainsOnPolicyWithoutAGapAndReproducibly) {
  std::vector<std::vector<at::Tensor>> results;
  for (int run = 0; run < 2; ++run) {
    model::Decoder decoder = NewDecoder(TinyModel(), 1);
    TrainBatch batch = RolloutBatch(decoder, 5, 3, 0);
    if (run == 1) std::reverse(batch.sequences.begin(), batch.sequences.end());
    const auto trainer = NewPresetTrainer(PresetRun(GetParam()), std::move(decoder));
    const auto report = trainer->TrainStep(batch);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->gap, 0.0);
    EXPECT_EQ(report->skipped_updates, 0u);
    EXPECT_GT(report->metrics.at("train/grad_norm"), 0.0);
    results.push_back(CopyParameters(*trainer));
  }
  ExpectSameBits(results[0], results[1]);
}

INSTANTIATE_TEST_SUITE_P(All, Presets, ::testing::ValuesIn(testing::AllPresets()),
                         [](const auto& instance) { return config::PresetName(instance.param); });

// A decoder with the weights that `trainer` has now.
model::Decoder CopyOf(const Trainer& trainer) {
  const at::NoGradGuard no_grad;
  model::Decoder copy = NewDecoder(TinyModel(), 1);
  const std::vector<at::Tensor> weights = CopyParameters(trainer);
  for (size_t i = 0; i < weights.size(); ++i) copy.parameters()[i].tensor.copy_(weights[i]);
  copy.InvalidatePacked();
  return copy;
}

std::unique_ptr<Trainer> NewRounds(const std::vector<std::string>& overrides) {
  return NewPresetTrainer(PresetRun(v1::ALGORITHM_PRESET_ITERATIVE_DPO, overrides),
                          NewDecoder(TinyModel(), 1));
}

double LossOfStep(Trainer& trainer, const TrainBatch& batch) {
  const auto report = trainer.TrainStep(batch);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? report->metrics.at("train/loss") : std::nan("");
}

TEST(IterativeDpo, WithinARoundTheReferenceStaysWhereTheRoundBegan) {
  model::Decoder start = NewDecoder(TinyModel(), 1);
  TrainBatch batch = RolloutBatch(start, 3, 3, 0);
  for (TrainSequence& sequence : batch.sequences) {
    sequence.reference_logprobs = testing::LogprobsOf(start, sequence.token_ids);
  }
  const auto one = NewRounds({"algorithm.mini_batches=1", "algorithm.epochs_per_batch=1"});
  EXPECT_NEAR(LossOfStep(*one, batch), std::log(2.0), 1e-6);
  model::Decoder moved = CopyOf(*one);
  const double second = OnlineDpo(RowsOf(moved, batch));
  EXPECT_LT(second, std::log(2.0) - 1e-3);
  const auto two = NewRounds({"algorithm.mini_batches=1", "algorithm.epochs_per_batch=2"});
  EXPECT_NEAR(LossOfStep(*two, batch), (std::log(2.0) + second) / 2, 1e-5);
}

TEST(IterativeDpo, EachRoundStartsAtItsReference) {
  model::Decoder start = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(start, 3, 3, 0.3);
  for (const char* refresh : {"1", "2"}) {
    const auto trainer = NewRounds({"algorithm.mini_batches=1", "algorithm.epochs_per_batch=1",
                                    "algorithm.reference_refresh_steps=" + std::string(refresh)});
    LossOfStep(*trainer, batch);
    const double loss = LossOfStep(*trainer, batch);
    if (std::string(refresh) == "1") {
      EXPECT_NEAR(loss, std::log(2.0), 1e-6);
    } else {
      EXPECT_LT(loss, std::log(2.0) - 1e-3);
    }
  }
}

TEST(IterativeDpo, ARoundIsMiniBatchesTimesEpochsUpdates) {
  model::Decoder start = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(start, 3, 8, 0);
  const auto report = NewRounds({})->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->metrics.at("train/pairs"), 8);
  EXPECT_EQ(report->metrics.at("train/updates"), 4 * 2);
  EXPECT_GT(report->metrics.at("train/pair_margin"), 0);
  EXPECT_EQ(report->gap, 0.0);
}

// Without a verifier's score nothing but the teacher moves the student: at the teacher the gradient
// is none, and on the way there the KL falls.
TEST(Distillation, TheTeacherIsWhereTheStudentComesToRest) {
  const v1::RunConfig config = PresetRun(v1::ALGORITHM_PRESET_DISTILLATION);
  model::Decoder teacher = NewDecoder(TinyModel(), 5);
  const auto taught = [&](model::Decoder& policy) {
    TrainBatch batch = RolloutBatch(policy, 3, 8, 0);
    for (TrainSequence& sequence : batch.sequences) {
      sequence.reward = 0;
      sequence.reference_logprobs = testing::LogprobsOf(teacher, sequence.token_ids);
    }
    return batch;
  };
  const auto at_rest = NewPresetTrainer(config, NewDecoder(TinyModel(), 5));
  const auto still = at_rest->TrainStep(taught(teacher));
  ASSERT_TRUE(still.ok()) << still.status();
  EXPECT_EQ(still->metrics.at("train/kl"), 0);
  EXPECT_EQ(still->metrics.at("train/grad_norm"), 0);

  model::Decoder student = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = taught(student);
  const auto trainer = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  ASSERT_TRUE(trainer->TrainStep(batch).ok());
  model::Decoder after = CopyOf(*trainer);
  // A token less likely than under the teacher is made likelier, one that is likelier is not.
  double moved = 0;
  const std::vector<Row> before = RowsOf(student, batch), rows = RowsOf(after, batch);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t t = 0; t < rows[i].tokens(); ++t) {
      moved += (rows[i].logprobs[t] - before[i].logprobs[t]) *
               (rows[i].reference[t] - before[i].logprobs[t]);
    }
  }
  EXPECT_GT(moved, 0);
}

TEST(Ppo, TheCriticIsTrainedTowardsTheReturns) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(decoder, 3, 3, 0.3);
  const Gae gae = PpoEstimate(RowsOf(decoder, batch));
  double expected = 0;
  for (size_t i = 0; i < gae.values.size(); ++i) {
    expected += 0.5 * std::pow(gae.values[i] - gae.returns[i], 2);
  }
  expected /= static_cast<double>(gae.values.size());
  const auto report =
      NewPresetTrainer(PresetRun(v1::ALGORITHM_PRESET_PPO, {"algorithm.epochs_per_batch=1"}),
                       NewDecoder(TinyModel(), 1))
          ->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->metrics.at("train/value_loss"), expected, 1e-5 * expected);
}

double LossWith(const std::vector<std::string>& overrides, const TrainBatch& batch) {
  const auto report =
      NewPresetTrainer(PresetRun(v1::ALGORITHM_PRESET_GRPO, overrides), NewDecoder(TinyModel(), 1))
          ->TrainStep(batch);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? report->metrics.at("train/loss") : std::nan("");
}

TEST(PresetCells, EachOverrideReachesTheLoss) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  TrainBatch batch = RolloutBatch(decoder, 3, 3, 0.3);
  for (TrainSequence& sequence : batch.sequences) {
    sequence.truncated = sequence.token_ids.size() > 8;
    sequence.reward = *sequence.reward > 0.5 ? 1.0 : *sequence.reward;
  }
  const double plain = LossWith({}, batch);
  for (const char* cell :
       {"entropy_coefficient=0.1", "mask_truncated=true", "overlong_buffer=10", "ratio_cap=1.01",
        "kl_estimator=abs", "kl_placement=reward", "kl_max_value=1e-4", "max_log_ratio=0.01",
        "advantage_normalization=batch_std", "behavior_correction=token_truncate"}) {
    EXPECT_NE(LossWith({"algorithm." + std::string(cell)}, batch), plain) << cell;
  }
}

TEST(PresetCells, EachOverrideOfTokenRewardsReachesTheLoss) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  TrainBatch batch = RolloutBatch(decoder, 3, 3, 0.3);
  for (TrainSequence& sequence : batch.sequences) {
    sequence.truncated = sequence.token_ids.size() > 8;
  }
  const auto losses_with = [&](std::vector<std::string> overrides) {
    overrides.push_back("algorithm.epochs_per_batch=1");
    const auto report =
        NewPresetTrainer(PresetRun(v1::ALGORITHM_PRESET_PPO, overrides), NewDecoder(TinyModel(), 1))
            ->TrainStep(batch);
    EXPECT_TRUE(report.ok()) << report.status();
    return std::pair(report->metrics.at("train/loss"), report->metrics.at("train/value_loss"));
  };
  const auto plain = losses_with({});
  for (const char* cell :
       {"gae_lambda=0.5", "gamma=0.9", "reward_clip=0.4", "reward_whitening=true",
        "missing_eos_penalty=1", "overlong_buffer=10", "kl_coefficient=0.2"}) {
    const auto changed = losses_with({"algorithm." + std::string(cell)});
    EXPECT_NE(changed.first, plain.first) << cell;
    EXPECT_NE(changed.second, plain.second) << cell;
  }
  // A critic's own cells do not reach the policy.
  const auto weighted = losses_with({"learner.critic.coefficient=1"});
  EXPECT_EQ(weighted.first, plain.first);
  EXPECT_NEAR(weighted.second, 2 * plain.second, 1e-6);
}

TEST(PresetCells, CorrectedRatiosStartAtOne) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(decoder, 3, 3, 0.3);
  const auto report =
      NewPresetTrainer(
          PresetRun(v1::ALGORITHM_PRESET_GRPO,
                    {"algorithm.behavior_correction=token_mask", "algorithm.behavior_max=3"}),
          NewDecoder(TinyModel(), 1))
          ->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->metrics.at("train/ratio_min"), 1.0);
  EXPECT_EQ(report->metrics.at("train/ratio_max"), 1.0);
}

TEST(PresetCells, AnAdaptiveCoefficientMovesAndIsResumed) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(decoder, 3, 3, 0.3);
  const v1::RunConfig config = PresetRun(
      v1::ALGORITHM_PRESET_RLOO,
      {"algorithm.kl_target=1e-6", "algorithm.kl_horizon=10", "algorithm.kl_estimator=k2"});
  const auto trainer = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  ASSERT_TRUE(trainer->TrainStep(batch).ok());
  v1::LearnerCheckpoint record;
  ASSERT_TRUE(trainer->FillRecord(record).ok());
  // 12 sequences, error clipped to 0.2.
  EXPECT_NEAR(record.algorithm_state().at("kl_coefficient"), 0.05 * (1 + 0.2 * 12 / 10), 1e-8);
  const auto second = trainer->TrainStep(batch);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NEAR(second->metrics.at("train/kl_coefficient"), 0.05 * (1 + 0.2 * 12 / 10), 1e-8);
}

}  // namespace
}  // namespace rollcall::learner
