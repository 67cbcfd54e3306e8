// Online DPO through the trainer.
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using testing::CopyParameters;
using testing::NewDecoder;
using testing::NewPresetTrainer;
using testing::PresetRun;
using testing::RolloutBatch;
using testing::TinyModel;

std::map<std::string, double> StepWith(const std::vector<std::string>& overrides,
                                       const TrainBatch& batch, uint32_t budget = 30) {
  v1::RunConfig config = PresetRun(v1::ALGORITHM_PRESET_ONLINE_DPO, overrides);
  config.mutable_learner()->set_micro_batch_tokens(budget);
  const auto report = NewPresetTrainer(config, NewDecoder(TinyModel(), 1))->TrainStep(batch);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? report->metrics : std::map<std::string, double>();
}

TrainBatch Batch() {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  return RolloutBatch(decoder, 3, 4, 0.3);
}

TEST(PairTraining, TiedGroupsAreDroppedAndCounted) {
  TrainBatch batch = Batch();
  for (size_t i = 0; i < 4; ++i) batch.sequences[i].reward = 1.0;
  for (size_t i = 4; i < 7; ++i) batch.sequences[i].reward.reset();
  const auto metrics = StepWith({}, batch);
  EXPECT_EQ(metrics.at("train/pairs"), 2);
  EXPECT_EQ(metrics.at("train/tied_groups"), 1);
  EXPECT_EQ(metrics.at("train/incomplete_groups"), 1);
  EXPECT_EQ(metrics.at("train/updates"), 1);
}

TEST(PairTraining, OnlyTiesChangeNothing) {
  TrainBatch batch = Batch();
  for (TrainSequence& sequence : batch.sequences) sequence.reward = 0.5;
  const auto trainer =
      NewPresetTrainer(PresetRun(v1::ALGORITHM_PRESET_ONLINE_DPO), NewDecoder(TinyModel(), 1));
  const std::vector<at::Tensor> before = CopyParameters(*trainer);
  const auto report = trainer->TrainStep(batch);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->metrics.at("train/tied_groups"), 4);
  EXPECT_EQ(report->metrics.at("train/updates"), 0);
  testing::ExpectSameBits(before, CopyParameters(*trainer));
}

TEST(PairTraining, AMissingEndCostsItsPenaltyBeforePairsAreMade) {
  TrainBatch batch = Batch();
  for (TrainSequence& sequence : batch.sequences) sequence.reward = 1.0;
  batch.sequences[2].truncated = true;
  EXPECT_EQ(StepWith({}, batch).at("train/pairs"), 0);
  EXPECT_EQ(StepWith({"algorithm.missing_eos_penalty=1"}, batch).at("train/pairs"), 1);
}

TEST(PairTraining, EachCellReachesTheLoss) {
  const TrainBatch batch = Batch();
  const double plain = StepWith({}, batch).at("train/loss");
  for (const char* cell : {"preference_loss=ipo", "pair_selection=first_two", "beta=0.5"}) {
    EXPECT_NE(StepWith({"algorithm." + std::string(cell)}, batch).at("train/loss"), plain) << cell;
  }
  // IPO, hand-worked from the margins: one pair.
  TrainBatch one = batch;
  one.sequences.resize(4);
  one.group_ids.resize(1);
  const auto ipo = StepWith({"algorithm.preference_loss=ipo", "algorithm.beta=0.25"}, one);
  EXPECT_NEAR(ipo.at("train/loss"), std::pow(ipo.at("train/pair_margin") - 2, 2), 1e-4);
}

TEST(PairTraining, MicroBatchesAndAConstantChangeNothing) {
  TrainBatch batch = Batch();
  const double loss = StepWith({}, batch).at("train/loss");
  EXPECT_NEAR(StepWith({}, batch, 1).at("train/loss"), loss, 1e-6);
  EXPECT_NEAR(StepWith({}, batch, 100000).at("train/loss"), loss, 1e-6);
  for (TrainSequence& sequence : batch.sequences) *sequence.reward += 8;
  EXPECT_EQ(StepWith({}, batch).at("train/loss"), loss);
}

TEST(PairTraining, TheMarginGrows) {
  v1::RunConfig config = PresetRun(v1::ALGORITHM_PRESET_ONLINE_DPO);
  const auto trainer = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  const TrainBatch batch = Batch();
  double first = 0, last = 0;
  for (int i = 0; i < 10; ++i) {
    const auto report = trainer->TrainStep(batch);
    ASSERT_TRUE(report.ok()) << report.status();
    last = report->metrics.at("train/pair_margin");
    if (i == 0) first = last;
  }
  EXPECT_GT(last, first + 1);
}

}  // namespace
}  // namespace rollcall::learner
