#include <ATen/core/Tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using testing::CopyParameters;
using testing::CopyTask;
using testing::ExpectSameBits;
using testing::NewDecoder;
using testing::NewTrainer;
using testing::TinyModel;
using testing::TinyRun;

TEST(SupervisedTraining, ATinyLlamaLearnsToCopy) {
  const model::testing::ThreadCount scope(1);
  constexpr uint64_t kSteps = 160;
  v1::RunConfig config = TinyRun(v1::STAGE_SFT);
  config.mutable_learner()->set_steps(kSteps);
  auto& optimizer = *config.mutable_learner()->mutable_optimizer();
  optimizer.set_lr(1e-2f);
  optimizer.set_warmup_steps(10);
  optimizer.set_schedule(v1::LR_SCHEDULE_COSINE);
  const auto trainer = NewTrainer(config, NewDecoder(TinyModel(), 1));
  double first = 0, last = 0;
  for (uint64_t step = 1; step <= kSteps; ++step) {
    const auto report = trainer->TrainStep(CopyTask(step, 32));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->step, step);
    EXPECT_FALSE(report->gap.has_value());
    last = report->metrics.at("train/loss");
    if (step == 1) first = last;
  }
  // Untrained, each of five tokens costs about log 16 nats.
  EXPECT_NEAR(first, std::log(16), 0.3);
  EXPECT_LT(last, 0.2);
}

TEST(SupervisedTraining, LossIsTheMeanOverTaughtTokens) {
  model::Decoder decoder = NewDecoder(TinyModel(), 2);
  TrainBatch batch = CopyTask(1, 3);
  batch.sequences[1].loss_mask.back() = 0;
  double sum = 0;
  int count = 0;
  for (const TrainSequence& sequence : batch.sequences) {
    const std::vector<float> logprobs = testing::LogprobsOf(decoder, sequence.token_ids);
    for (size_t i = 0; i < logprobs.size(); ++i) {
      if (sequence.loss_mask[i] == 0) continue;
      sum -= logprobs[i];
      ++count;
    }
  }
  ASSERT_EQ(count, 14);
  const auto trainer = NewTrainer(TinyRun(v1::STAGE_SFT), std::move(decoder));
  const auto report = trainer->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_NEAR(report->metrics.at("train/loss"), sum / count, 1e-6);
  EXPECT_EQ(report->metrics.at("train/loss_tokens"), 14);
  EXPECT_EQ(report->metrics.at("train/tokens"), 30);
}

TEST(SupervisedTraining, IsTheSameBitsTwiceWithAnyNumberOfThreads) {
  std::vector<std::vector<at::Tensor>> results;
  for (const int threads : {2, 2, 1}) {
    const model::testing::ThreadCount scope(threads);
    const auto trainer = NewTrainer(TinyRun(v1::STAGE_SFT), NewDecoder(TinyModel(), 3));
    for (uint64_t step = 1; step <= 3; ++step) {
      ASSERT_TRUE(trainer->TrainStep(CopyTask(step, 16)).ok());
    }
    results.push_back(CopyParameters(*trainer));
  }
  ExpectSameBits(results[0], results[1]);
  ExpectSameBits(results[0], results[2]);
}

TEST(SupervisedTraining, BFloat16LearnsOnFloat32Masters) {
  const model::testing::ThreadCount scope(1);
  v1::RunConfig config = TinyRun(v1::STAGE_SFT);
  config.mutable_learner()->mutable_optimizer()->set_lr(5e-3f);
  const auto trainer = NewTrainer(config, NewDecoder(TinyModel(), 4, at::kBFloat16));
  double last = 0;
  for (uint64_t step = 1; step <= 50; ++step) {
    const auto report = trainer->TrainStep(CopyTask(step, 32));
    ASSERT_TRUE(report.ok()) << report.status();
    last = report->metrics.at("train/loss");
  }
  EXPECT_LT(last, 2.4);
  const auto snapshot = trainer->Snapshot();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ((*snapshot)->step, 50u);
  EXPECT_EQ((*snapshot)->tensors[0].dtype, wire::DType::kBFloat16);
  EXPECT_EQ((*snapshot)->tensors[0].bytes.size(), 16u * 32 * 2);
}

TEST(SupervisedTraining, RefusesRollouts) {
  const auto trainer = NewTrainer(TinyRun(v1::STAGE_SFT), NewDecoder(TinyModel(), 5));
  TrainBatch batch = CopyTask(1, 2);
  batch.group_ids = {0, 1};
  EXPECT_EQ(trainer->TrainStep(batch).status().code(), absl::StatusCode::kInvalidArgument);
  batch = CopyTask(1, 2);
  batch.sequences[0].token_ids[3] = 16;
  EXPECT_EQ(trainer->TrainStep(batch).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(trainer->step(), 0u);
}

}  // namespace
}  // namespace rollcall::learner
