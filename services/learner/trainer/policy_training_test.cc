#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using testing::CopyParameters;
using testing::ExpectSameBits;
using ::testing::HasSubstr;
using testing::NewDecoder;
using testing::NewTrainer;
using testing::RolloutBatch;
using testing::TinyModel;
using testing::TinyRun;

v1::RunConfig GrpoRun() { return TinyRun(v1::STAGE_RL); }

// The GRPO objective of a whole batch in float64 from its definition, token by token: DeepSeekMath,
// equation 3.
double ReferenceLoss(model::Decoder& decoder, const TrainBatch& batch) {
  double loss = 0;
  for (const TrainSequence& sequence : batch.sequences) {
    double mean = 0, squares = 0;
    std::vector<double> rewards;
    for (const TrainSequence& other : batch.sequences) {
      if (other.group_id == sequence.group_id) rewards.push_back(*other.reward);
    }
    const auto n = static_cast<double>(rewards.size());
    for (const double reward : rewards) mean += reward / n;
    for (const double reward : rewards) squares += (reward - mean) * (reward - mean);
    const double advantage = (*sequence.reward - mean) / (std::sqrt(squares / (n - 1)) + 1e-4);

    const std::vector<float> logprobs = testing::LogprobsOf(decoder, sequence.token_ids);
    double of_sequence = 0, tokens = 0;
    for (size_t i = 0; i < logprobs.size(); ++i) {
      if (sequence.loss_mask[i] == 0) continue;
      const double ratio =
          std::exp(static_cast<double>(logprobs[i]) - sequence.behavior_logprobs[i]);
      const double difference = static_cast<double>(sequence.reference_logprobs[i]) - logprobs[i];
      of_sequence -= std::min(ratio * advantage, std::clamp(ratio, 0.8, 1.2) * advantage);
      of_sequence += 0.04 * (std::exp(difference) - difference - 1);
      ++tokens;
    }
    loss += of_sequence / tokens / static_cast<double>(batch.sequences.size());
  }
  return loss;
}

// What one step of plain gradient descent would follow: with beta1 = beta2 = 0 AdamW's first moment
// is the gradient.
std::vector<at::Tensor> GradientOf(const v1::RunConfig& base, model::Decoder decoder,
                                   const TrainBatch& batch, double* loss = nullptr) {
  v1::RunConfig config = base;
  auto& optimizer = *config.mutable_learner()->mutable_optimizer();
  optimizer.set_beta1(0);
  optimizer.set_beta2(0);
  optimizer.set_max_grad_norm(0);
  const auto trainer = NewTrainer(config, std::move(decoder));
  const auto report = trainer->TrainStep(batch);
  EXPECT_TRUE(report.ok()) << report.status();
  if (report.ok() && loss != nullptr) *loss = report->metrics.at("train/loss");
  return testing::FirstMoments(*trainer);
}

TEST(PolicyTraining, LossAndGradientAreThoseOfTheDefinition) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(decoder, 3, 3, /*drift=*/0.3);
  const double expected = ReferenceLoss(decoder, batch);
  double loss = 0;
  const std::vector<at::Tensor> gradient =
      GradientOf(GrpoRun(), NewDecoder(TinyModel(), 1), batch, &loss);
  EXPECT_NEAR(loss, expected, 1e-5);

  // Central differences along the gradient itself, the direction in which float32 noise matters
  // least.
  double norm = 0;
  for (const at::Tensor& part : gradient) norm += part.square().sum().item<double>();
  norm = std::sqrt(norm);
  const auto loss_at = [&](double distance) {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < gradient.size(); ++i) {
      decoder.parameters()[i].tensor.add_(gradient[i], distance / norm);
    }
    decoder.InvalidatePacked();
    const double value = ReferenceLoss(decoder, batch);
    for (size_t i = 0; i < gradient.size(); ++i) {
      decoder.parameters()[i].tensor.sub_(gradient[i], distance / norm);
    }
    return value;
  };
  constexpr double kStep = 2e-3;
  EXPECT_NEAR((loss_at(kStep) - loss_at(-kStep)) / (2 * kStep), norm, 5e-3 * norm);
}

// Token by token from the definitions, over a policy that has moved away from the one that sampled.
TEST(PolicyTraining, DivergencesAreThoseOfTheirEstimators) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const TrainBatch batch = RolloutBatch(decoder, 3, 3, /*drift=*/0.3);
  double behavior_k1 = 0, behavior_k3 = 0, reference_k1 = 0, reference_k3 = 0, tokens = 0;
  for (const TrainSequence& sequence : batch.sequences) {
    const std::vector<float> logprobs = testing::LogprobsOf(decoder, sequence.token_ids);
    for (size_t i = 0; i < logprobs.size(); ++i) {
      if (sequence.loss_mask[i] == 0) continue;
      const double moved = static_cast<double>(logprobs[i]) - sequence.behavior_logprobs[i];
      const double away = static_cast<double>(sequence.reference_logprobs[i]) - logprobs[i];
      behavior_k1 -= moved;
      behavior_k3 += std::exp(moved) - 1 - moved;
      reference_k1 -= away;
      reference_k3 += std::exp(away) - 1 - away;
      ++tokens;
    }
  }
  const auto trainer = NewTrainer(GrpoRun(), std::move(decoder));
  const auto report = trainer->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->metrics.at("train/behavior_kl_k1"), behavior_k1 / tokens, 1e-6);
  EXPECT_NEAR(report->metrics.at("train/behavior_kl_k3"), behavior_k3 / tokens, 1e-6);
  EXPECT_NEAR(report->metrics.at("train/reference_kl_k1"), reference_k1 / tokens, 1e-6);
  EXPECT_NEAR(report->metrics.at("train/reference_kl_k3"), reference_k3 / tokens, 1e-6);
  EXPECT_GT(behavior_k3 / tokens, 1e-3);
  EXPECT_GT(reference_k3 / tokens, 1e-6);
}

TEST(PolicyTraining, EveryForwardPassIsTold) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  v1::RunConfig config = GrpoRun();
  config.mutable_learner()->set_micro_batch_tokens(1);
  const TrainBatch batch = RolloutBatch(decoder, 2, 3, 0);
  const auto trainer = NewTrainer(config, std::move(decoder));
  size_t passes = 0;
  trainer->OnForward([&passes] { ++passes; });
  ASSERT_TRUE(trainer->TrainStep(batch).ok());
  EXPECT_EQ(passes, batch.sequences.size());
}

TEST(PolicyTraining, MicroBatchesDoNotChangeTheGradient) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const model::testing::ThreadCount scope(1);
  const TrainBatch batch = RolloutBatch(decoder, 4, 3, 0.2);
  for (const auto aggregation :
       {v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN, v1::LOSS_AGGREGATION_TOKEN_MEAN}) {
    v1::RunConfig config = GrpoRun();
    config.mutable_algorithm()->set_aggregation(aggregation);
    const std::vector<at::Tensor> whole = GradientOf(config, NewDecoder(TinyModel(), 1), batch);
    for (const uint32_t tokens : {1u, 17u, 40u}) {
      config.mutable_learner()->set_micro_batch_tokens(tokens);
      const std::vector<at::Tensor> split = GradientOf(config, NewDecoder(TinyModel(), 1), batch);
      for (size_t i = 0; i < whole.size(); ++i) {
        const double scale = whole[i].abs().max().item<double>();
        EXPECT_LE(model::testing::MaxDifference(split[i], whole[i]), 1e-5 * scale + 1e-8)
            << tokens << " tokens, parameter " << i;
      }
    }
  }
}

TEST(PolicyTraining, OnPolicyBatchHasNoGapAndRatioOne) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  v1::RunConfig config = GrpoRun();
  config.mutable_learner()->set_micro_batch_tokens(20);
  const TrainBatch batch = RolloutBatch(decoder, 5, 3, 0);
  const auto trainer = NewTrainer(config, std::move(decoder));
  const auto report = trainer->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->gap, 0.0);
  EXPECT_EQ(report->metrics.at("train/ratio_min"), 1.0);
  EXPECT_EQ(report->metrics.at("train/ratio_max"), 1.0);
  EXPECT_EQ(report->metrics.at("train/clip_fraction_low"), 0.0);
  EXPECT_GT(report->metrics.at("train/kl"), 0.0);
  EXPECT_EQ(report->metrics.at("train/behavior_kl_k1"), 0.0);
  EXPECT_EQ(report->metrics.at("train/behavior_kl_k3"), 0.0);
  EXPECT_GT(report->metrics.at("train/entropy"), 0.0);
  EXPECT_NEAR(report->metrics.at("train/advantage_mean"), 0.0, 1e-6);
}

// 1 / 0.55 and 1 / float(0.55) round to different floats: the learner has to divide by the very number that the request
// carried to the generator.
TEST(PolicyTraining, AnyTemperatureHasNoGap) {
  for (const float temperature : {0.55f, 0.85f, 1.03f}) {
    model::Decoder decoder = NewDecoder(TinyModel(), 1);
    v1::RunConfig config = GrpoRun();
    config.mutable_sampling()->set_temperature(temperature);
    TrainBatch batch = RolloutBatch(decoder, 5, 3, 0);
    for (TrainSequence& sequence : batch.sequences) {
      sequence.behavior_logprobs = testing::LogprobsOf(decoder, sequence.token_ids, temperature);
    }
    const auto report = NewTrainer(config, std::move(decoder))->TrainStep(batch);
    ASSERT_TRUE(report.ok()) << temperature << ": " << report.status();
    EXPECT_EQ(report->gap, 0.0) << temperature;
  }
}

TEST(PolicyTraining, AGapStopsBeforeTheUpdateUnlessTold) {
  v1::RunConfig config = GrpoRun();
  const auto run = [&](v1::GapAction action, float max_gap) {
    model::Decoder decoder = NewDecoder(TinyModel(), 1);
    TrainBatch batch = RolloutBatch(decoder, 5, 2, 0);
    TrainSequence& sequence = batch.sequences[5];
    sequence.behavior_logprobs.back() -= 0.25f;
    config.mutable_learner()->set_on_gap(action);
    config.mutable_learner()->set_max_gap(max_gap);
    const auto trainer = NewTrainer(config, std::move(decoder));
    const std::vector<at::Tensor> before = CopyParameters(*trainer);
    auto report = trainer->TrainStep(batch);
    if (!report.ok()) ExpectSameBits(CopyParameters(*trainer), before);
    return report;
  };
  const auto failed = run(v1::GAP_ACTION_FAIL, 0);
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("group 11 sample 1 position"));
  const auto warned = run(v1::GAP_ACTION_WARN, 0);
  ASSERT_TRUE(warned.ok()) << warned.status();
  EXPECT_NEAR(*warned->gap, 0.25, 1e-5);
  EXPECT_TRUE(run(v1::GAP_ACTION_IGNORE, 0).ok());
  EXPECT_TRUE(run(v1::GAP_ACTION_FAIL, 0.3f).ok());
  config.set_numerics(v1::NUMERICS_FAST);
  const auto fast = run(v1::GAP_ACTION_FAIL, 0);
  ASSERT_TRUE(fast.ok()) << fast.status();
  EXPECT_NEAR(*fast->gap, 0.25, 1e-5);
}

TEST(PolicyTraining, ArrivalOrderAndThreadsDoNotShow) {
  std::vector<std::vector<at::Tensor>> results;
  for (int run = 0; run < 3; ++run) {
    const model::testing::ThreadCount scope(run == 2 ? 1 : 2);
    v1::RunConfig config = GrpoRun();
    config.mutable_algorithm()->set_mini_batches(2);
    config.mutable_algorithm()->set_epochs_per_batch(2);
    config.mutable_learner()->set_micro_batch_tokens(32);
    model::Decoder decoder = NewDecoder(TinyModel(), 1);
    TrainBatch batch = RolloutBatch(decoder, 6, 5, 0);
    if (run == 1) {
      std::reverse(batch.sequences.begin(), batch.sequences.end());
      std::rotate(batch.group_ids.begin(), batch.group_ids.begin() + 2, batch.group_ids.end());
    }
    const auto trainer = NewTrainer(config, std::move(decoder));
    const auto report = trainer->TrainStep(batch);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->metrics.at("train/updates"), 4);
    EXPECT_EQ(report->gap, 0.0);
    EXPECT_NE(report->metrics.at("train/ratio_max"), 1.0);  // later passes are off-policy
    results.push_back(CopyParameters(*trainer));
  }
  ExpectSameBits(results[0], results[1]);
  ExpectSameBits(results[0], results[2]);
}

TEST(PolicyTraining, RewardedTokensBecomeLikelier) {
  const model::testing::ThreadCount scope(1);
  // Reward: the first completion token is 7. Sampling is exhaustive: every sample of a group is
  // another token.
  v1::RunConfig config = GrpoRun();
  config.mutable_algorithm()->set_kl_coefficient(0);
  config.mutable_learner()->mutable_optimizer()->set_lr(3e-3f);
  const auto trainer = NewTrainer(config, NewDecoder(TinyModel(), 1));
  model::Decoder probe = NewDecoder(TinyModel(), 1);
  const auto probability = [&] {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < probe.parameters().size(); ++i) {
      probe.parameters()[i].tensor.copy_(trainer->decoder().parameters()[i].tensor);
    }
    return std::exp(testing::LogprobsOf(probe, {3, 4, 7})[2]);
  };
  const double before = probability();
  for (int step = 0; step < 40; ++step) {
    TrainBatch batch;
    batch.group_ids = {1};
    for (uint32_t token = 0; token < 16; ++token) {
      TrainSequence sequence;
      sequence.group_id = 1;
      sequence.sample_index = token;
      sequence.token_ids = {3, 4, token};
      sequence.loss_mask = {0, 0, 1};
      sequence.behavior_logprobs = testing::LogprobsOf(probe, sequence.token_ids);
      sequence.reward = token == 7 ? 1.0 : 0.0;
      sequence.on_policy = true;
      batch.sequences.push_back(std::move(sequence));
    }
    const auto report = trainer->TrainStep(batch);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->gap, 0.0);
    probability();
  }
  EXPECT_LT(before, 0.2);
  EXPECT_GT(probability(), 0.9);
}

TEST(PolicyTraining, UpdatesThatAreNotFiniteAreSkippedAndCounted) {
  v1::RunConfig config = GrpoRun();
  config.mutable_learner()->set_max_consecutive_skipped_steps(2);
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  const TrainBatch good = RolloutBatch(decoder, 7, 2, 0.1);
  TrainBatch bad = good;
  // exp(0 - -200) overflows: the ratio and k3 are infinite.
  for (float& logprob : bad.sequences[2].behavior_logprobs) logprob = -200;
  for (TrainSequence& sequence : bad.sequences)
    sequence.reference_logprobs = sequence.behavior_logprobs;
  bad.sequences[2].reward = -1.0;
  const auto trainer = NewTrainer(config, std::move(decoder));
  const std::vector<at::Tensor> before = CopyParameters(*trainer);
  auto report = trainer->TrainStep(bad);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->skipped_updates, 1u);
  EXPECT_EQ(report->metrics.at("train/skipped_updates"), 1);
  ExpectSameBits(CopyParameters(*trainer), before);

  report = trainer->TrainStep(good);  // resets the count in a row
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->skipped_updates, 0u);
  EXPECT_TRUE(trainer->TrainStep(bad).ok());
  const auto stopped = trainer->TrainStep(bad);
  EXPECT_EQ(stopped.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(stopped.status().message()), HasSubstr("max_consecutive_skipped_steps"));
  for (const at::Tensor& parameter : CopyParameters(*trainer)) {
    EXPECT_TRUE(parameter.isfinite().all().item<bool>());
  }
}

TEST(PolicyTraining, UnscoredAndEmptyCompletionsStayOutOfTheLoss) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  TrainBatch batch = RolloutBatch(decoder, 8, 2, 0.1);
  TrainBatch fewer = batch;
  batch.sequences[1].reward.reset();
  fewer.sequences.erase(fewer.sequences.begin() + 1);
  const auto with = GradientOf(GrpoRun(), NewDecoder(TinyModel(), 1), batch);
  const auto without = GradientOf(GrpoRun(), NewDecoder(TinyModel(), 1), fewer);
  ExpectSameBits(with, without);

  // Nothing at all in the loss: no update, no NaN.
  for (TrainSequence& sequence : fewer.sequences) {
    std::fill(sequence.loss_mask.begin(), sequence.loss_mask.end(), uint8_t{0});
  }
  const auto trainer = NewTrainer(GrpoRun(), NewDecoder(TinyModel(), 1));
  const auto report = trainer->TrainStep(fewer);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->metrics.at("train/updates"), 0);
}

TEST(PolicyTraining, ShuffledRewardsChangeTheUpdateReproducibly) {
  const auto run = [](bool shuffle) {
    v1::RunConfig config = GrpoRun();
    config.mutable_algorithm()->set_shuffle_rewards(shuffle);
    model::Decoder decoder = NewDecoder(TinyModel(), 1);
    const TrainBatch batch = RolloutBatch(decoder, 9, 3, 0);
    const auto trainer = NewTrainer(config, std::move(decoder));
    EXPECT_TRUE(trainer->TrainStep(batch).ok());
    return CopyParameters(*trainer);
  };
  ExpectSameBits(run(true), run(true));
  EXPECT_FALSE(model::testing::SameBits(run(true)[0], run(false)[0]));
}

TEST(PolicyTraining, RefusesWhatItCannotTrain) {
  static SingleProcess group;
  v1::RunConfig greedy = GrpoRun();
  greedy.mutable_sampling()->set_temperature(0);
  EXPECT_EQ(Trainer::Create(greedy, NewDecoder(TinyModel(), 1), &group).status().code(),
            absl::StatusCode::kInvalidArgument);
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  TrainBatch batch = RolloutBatch(decoder, 9, 2, 0);
  for (size_t i = 1; i < 4; ++i) batch.sequences[i].reward.reset();
  const auto trainer = NewTrainer(GrpoRun(), std::move(decoder));
  EXPECT_THAT(std::string(trainer->TrainStep(batch).status().message()),
              HasSubstr("training step 1: group 10 has one scored sequence"));
}

}  // namespace
}  // namespace rollcall::learner
