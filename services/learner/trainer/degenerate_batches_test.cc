// Batches that say nothing, or nonsense, through the trainer of every preset: a clear error or a
// counted outcome, and never a parameter that is not a number.
#include <ATen/core/Tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "common/config/algorithm_presets.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using testing::CopyParameters;
using ::testing::HasSubstr;
using testing::NewDecoder;
using testing::NewPresetTrainer;
using testing::PresetRun;
using testing::RolloutBatch;
using testing::TinyModel;

class Degenerate : public ::testing::TestWithParam<v1::AlgorithmPreset> {
 protected:
  static bool TakesPairs() { return config::TakesPairs(PresetRun(GetParam()).algorithm()); }

  static TrainBatch Batch() {
    model::Decoder decoder = NewDecoder(TinyModel(), 1);
    return RolloutBatch(decoder, 3, 3, 0.3);
  }

  static std::unique_ptr<Trainer> NewOne(const std::vector<std::string>& overrides = {}) {
    return NewPresetTrainer(PresetRun(GetParam(), overrides), NewDecoder(TinyModel(), 1));
  }

  // Two steps, both taken or skipped without an error.
  static StepReport ExpectFinite(Trainer& trainer, const TrainBatch& batch) {
    StepReport last;
    for (int i = 0; i < 2; ++i) {
      auto report = trainer.TrainStep(batch);
      EXPECT_TRUE(report.ok()) << report.status();
      if (report.ok()) last = *std::move(report);
    }
    EXPECT_EQ(last.skipped_updates, 0u);
    for (const auto& [name, value] : last.metrics) {
      const bool of_no_token = name == "train/ratio_min" || name == "train/ratio_max";
      EXPECT_TRUE(of_no_token || std::isfinite(value)) << name << " " << value;
    }
    for (const at::Tensor& parameter : CopyParameters(trainer)) {
      EXPECT_TRUE(parameter.isfinite().all().item<bool>());
    }
    return last;
  }
};

TEST_P(Degenerate, RewardsThatAreAllEqual) {
  TrainBatch batch = Batch();
  for (TrainSequence& sequence : batch.sequences) sequence.reward = sequence.greedy_reward = 0.3;
  const StepReport report = ExpectFinite(*NewOne(), batch);
  const auto zero = report.metrics.find("train/zero_advantage_fraction");
  const Objective objective = ComposeObjective(PresetRun(GetParam()).algorithm(), 12).value();
  if (objective.compares_group() && !objective.kl_in_reward && zero != report.metrics.end() &&
      objective.advantage.normalization != v1::ADVANTAGE_NORMALIZATION_WHITEN) {
    EXPECT_EQ(zero->second, 1);
  }
}

TEST_P(Degenerate, RewardsThatAreNoNumbersAreRefused) {
  for (const double reward : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    TrainBatch batch = Batch();
    batch.sequences[5].reward = reward;
    const auto trainer = NewOne();
    const std::vector<at::Tensor> before = CopyParameters(*trainer);
    const auto report = trainer->TrainStep(batch);
    EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(report.status().message()), HasSubstr("group 11 sample 1"));
    testing::ExpectSameBits(before, CopyParameters(*trainer));
  }
}

TEST_P(Degenerate, CompletionsOfOneTokenAndOfNone) {
  TrainBatch batch = Batch();
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    TrainSequence& sequence = batch.sequences[i];
    std::fill(sequence.loss_mask.begin(), sequence.loss_mask.end(), uint8_t{0});
    if (i % 3 != 0) sequence.loss_mask.back() = 1;
  }
  ExpectFinite(*NewOne(), batch);
}

TEST_P(Degenerate, NothingInTheLoss) {
  TrainBatch batch = Batch();
  for (TrainSequence& sequence : batch.sequences) {
    std::fill(sequence.loss_mask.begin(), sequence.loss_mask.end(), uint8_t{0});
  }
  const auto trainer = NewOne();
  const std::vector<at::Tensor> before = CopyParameters(*trainer);
  EXPECT_EQ(ExpectFinite(*trainer, batch).metrics.at("train/updates"), 0);
  testing::ExpectSameBits(before, CopyParameters(*trainer));
}

TEST_P(Degenerate, EveryCompletionCutOff) {
  TrainBatch batch = Batch();
  for (TrainSequence& sequence : batch.sequences) sequence.truncated = true;
  ExpectFinite(*NewOne({"algorithm.missing_eos_penalty=1"}), batch);
  if (TakesPairs()) return;  // has no overlong filtering
  const auto trainer = NewOne({"algorithm.mask_truncated=true"});
  const StepReport report = ExpectFinite(*trainer, batch);
  EXPECT_EQ(report.metrics.at("train/masked_sequences"), 12);
  EXPECT_EQ(report.metrics.at("train/updates"), 0);
}

TEST_P(Degenerate, SamplesWithoutARewardStayOut) {
  TrainBatch batch = Batch();
  for (size_t i : {0u, 5u, 6u}) batch.sequences[i].reward.reset();
  ExpectFinite(*NewOne(), batch);
  for (TrainSequence& sequence : batch.sequences) sequence.reward.reset();
  const auto report = NewOne()->TrainStep(batch);
  if (TakesPairs()) {
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->metrics.at("train/incomplete_groups"), 3);
  } else {
    EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(report.status().message()), HasSubstr("no sequence has a reward"));
  }
}

TEST_P(Degenerate, HugeRewardsDoNotBreakIt) {
  TrainBatch batch = Batch();
  for (TrainSequence& sequence : batch.sequences) *sequence.reward *= 1e9;
  ExpectFinite(*NewOne(), batch);
}

// Micro-batches and the order of the sequences change nothing; where rewards are compared with one
// another, a constant added to all of them does not either.
TEST_P(Degenerate, WhatMustNotMatterDoesNot) {
  const auto loss_of = [&](const TrainBatch& batch, uint32_t budget) {
    v1::RunConfig config =
        PresetRun(GetParam(), {"algorithm.epochs_per_batch=1", "algorithm.mini_batches=1"});
    config.mutable_learner()->set_micro_batch_tokens(budget);
    const auto report = NewPresetTrainer(config, NewDecoder(TinyModel(), 1))->TrainStep(batch);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? report->metrics.at("train/loss") : std::nan("");
  };
  TrainBatch batch = Batch();
  const double loss = loss_of(batch, 30);
  const double tolerance = 2e-6 * std::max(1.0, std::abs(loss));
  EXPECT_NEAR(loss_of(batch, 1), loss, tolerance);
  EXPECT_NEAR(loss_of(batch, 100000), loss, tolerance);
  std::rotate(batch.sequences.begin(), batch.sequences.begin() + 5, batch.sequences.end());
  EXPECT_EQ(loss_of(batch, 30), loss);
  // A value is not moved with the rewards, and a teacher's judgement has no baseline.
  if (GetParam() == v1::ALGORITHM_PRESET_PPO) return;
  if (GetParam() == v1::ALGORITHM_PRESET_DISTILLATION) return;
  for (TrainSequence& sequence : batch.sequences) {
    *sequence.reward += 4;
    *sequence.greedy_reward += 4;
  }
  EXPECT_NEAR(loss_of(batch, 30), loss, tolerance);
}

INSTANTIATE_TEST_SUITE_P(All, Degenerate, ::testing::ValuesIn(testing::AllPresets()),
                         [](const auto& instance) { return config::PresetName(instance.param); });

}  // namespace
}  // namespace rollcall::learner
