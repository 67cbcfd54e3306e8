// Stage reward_model: learns to order pairs, and its loss is what RewardModelLoss says.
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/philox.h"
#include "services/learner/trainer/tiny_runs.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {
namespace {

using testing::NewTrainer;
using testing::TinyRun;

model::ModelConfig TinyRewardModel() {
  model::ModelConfig config = testing::TinyModel();
  config.head = model::Head::kSequenceScore;
  config.pad_token_id = 0;
  return config;
}

// Pairs of random sequences of 4 to 9 tokens in [2, 16); the chosen one has more tokens above 8.
TrainBatch LargerTokens(uint64_t seed, size_t pairs) {
  PhiloxStream random(seed, 5);
  const auto sequence = [&random](bool large) {
    TrainSequence made;
    const uint64_t length = 4 + random.Below(6);
    for (uint64_t i = 0; i < length; ++i) {
      made.token_ids.push_back(static_cast<uint32_t>((large ? 9 : 2) + random.Below(7)));
    }
    made.loss_mask.assign(length, 1);
    made.loss_mask[0] = 0;
    return made;
  };
  TrainBatch batch;
  for (size_t i = 0; i < pairs; ++i) {
    batch.sequences.push_back(sequence(true));
    batch.sequences.push_back(sequence(false));
  }
  return batch;
}

v1::RunConfig RewardRun() {
  v1::RunConfig config = TinyRun(v1::STAGE_REWARD_MODEL);
  config.mutable_learner()->mutable_optimizer()->set_lr(3e-3F);
  return config;
}

TEST(RewardModelTraining, LearnsWhichOfTwoIsPreferred) {
  const auto trainer = NewTrainer(RewardRun(), testing::NewDecoder(TinyRewardModel(), 1));
  const auto before = trainer->EvaluatePairs(LargerTokens(1000, 64));
  ASSERT_TRUE(before.ok()) << before.status();
  double first = 0, last = 0;
  for (uint64_t step = 1; step <= 30; ++step) {
    const auto report = trainer->TrainStep(LargerTokens(step, 16));
    ASSERT_TRUE(report.ok()) << report.status();
    last = report->metrics.at("train/loss");
    if (step == 1) first = last;
  }
  const auto after = trainer->EvaluatePairs(LargerTokens(1000, 64));
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_LT(before->at("eval/accuracy"), 0.85);
  EXPECT_GT(after->at("eval/accuracy"), 0.97);
  EXPECT_GT(after->at("eval/margin"), 1);
  EXPECT_EQ(after->at("eval/pairs"), 64);
  EXPECT_LT(last, 0.5 * first);
}

TEST(RewardModelTraining, LossIsTheMeanOverPairsWithMarginAndCentring) {
  v1::RunConfig config = RewardRun();
  config.mutable_learner()->set_reward_centering(0.5F);
  TrainBatch batch = LargerTokens(7, 3);
  for (TrainSequence& sequence : batch.sequences) sequence.margin = 0.25;
  // The head alone decides the values of sequences of one pair each.
  const auto probe = NewTrainer(RewardRun(), testing::NewDecoder(TinyRewardModel(), 2));
  double expected = 0;
  for (size_t i = 0; i < 6; i += 2) {
    const TrainBatch pair{.sequences = {batch.sequences[i], batch.sequences[i + 1]}};
    const auto figures = probe->EvaluatePairs(pair);
    ASSERT_TRUE(figures.ok()) << figures.status();
    const double difference = figures->at("eval/margin");
    const double sum = figures->at("eval/chosen_reward") + figures->at("eval/rejected_reward");
    expected += std::log1p(std::exp(-(difference - 0.25))) + 0.5 * sum * sum;
  }
  const auto trainer = NewTrainer(config, testing::NewDecoder(TinyRewardModel(), 2));
  const auto report = trainer->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->metrics.at("train/loss"), expected / 3, 1e-5);
}

TEST(RewardModelTraining, ASoftLabelIsTheExpectedLoss) {
  TrainBatch batch = LargerTokens(8, 1);
  const auto trainer = NewTrainer(RewardRun(), testing::NewDecoder(TinyRewardModel(), 2));
  const double margin = trainer->EvaluatePairs(batch)->at("eval/margin");
  batch.sequences[0].preference = 0.75;
  const auto report = trainer->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->metrics.at("train/loss"),
              0.75 * std::log1p(std::exp(-margin)) + 0.25 * std::log1p(std::exp(margin)), 1e-6);
}

TEST(RewardModelTraining, SplittingIntoMicroBatchesChangesNothingThatMatters) {
  v1::RunConfig whole = RewardRun();
  whole.mutable_learner()->mutable_optimizer()->set_beta1(0);
  v1::RunConfig split = whole;
  split.mutable_learner()->set_micro_batch_tokens(1);  // a pair each
  const TrainBatch batch = LargerTokens(3, 4);
  const auto a = NewTrainer(whole, testing::NewDecoder(TinyRewardModel(), 4));
  const auto b = NewTrainer(split, testing::NewDecoder(TinyRewardModel(), 4));
  const auto first = a->TrainStep(batch), second = b->TrainStep(batch);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->metrics.at("train/micro_batches"), 1);
  EXPECT_EQ(second->metrics.at("train/micro_batches"), 4);
  EXPECT_NEAR(first->metrics.at("train/loss"), second->metrics.at("train/loss"), 1e-6);
  const auto gradients_a = testing::FirstMoments(*a), gradients_b = testing::FirstMoments(*b);
  for (size_t i = 0; i < gradients_a.size(); ++i) {
    const double norm = gradients_a[i].norm().item<double>();
    EXPECT_LE(gradients_a[i].sub(gradients_b[i]).norm().item<double>(), 1e-5 * norm + 1e-8);
  }
}

}  // namespace
}  // namespace rollcall::learner
