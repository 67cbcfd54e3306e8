#include "services/learner/utilization.h"

#include <gtest/gtest.h>

namespace rollcall::learner {
namespace {

model::ModelConfig Model() {
  model::ModelConfig config;
  config.vocab_size = 10;
  config.hidden_size = 4;
  config.intermediate_size = 6;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 3;
  return config;
}

TrainBatch Batch() {
  TrainBatch batch;
  batch.sequences.resize(2);
  batch.sequences[0].token_ids = {1, 2, 3, 4, 5};
  batch.sequences[0].loss_mask = {0, 0, 1, 1, 1};
  batch.sequences[1].token_ids = {1};
  batch.sequences[1].loss_mask = {0};
  return batch;
}

// By hand, as in common/model/flops_test.cc: 2 * (2 * 5 * 144 + 24 * 15) + 3 * 80 and 2 * (2 * 144 + 24).
constexpr double kForward = 3600 + 240 + 624;

TEST(UtilizationTest, TheWorkOfABatchIsThatOfItsSequences) {
  const BatchWork work = WorkOf(Batch(), Model());
  EXPECT_EQ(work.tokens, 6);
  EXPECT_EQ(work.forward_flops, kForward);
}

TEST(UtilizationTest, MfuIsTheShareOfThePeak) {
  v1::RunConfig config;
  config.mutable_learner()->set_peak_tflops(0.5);
  config.mutable_learner()->set_ranks(2);
  const BatchWork work = WorkOf(Batch(), Model());
  StepValues values = {{"time/train_seconds", 0.25}, {"tokens", 12}};  // two epochs
  AddUtilization(config, work, values);
  EXPECT_DOUBLE_EQ(values.at("mfu"), kForward * 2 * 3 / (0.25 * 0.5e12 * 2));
  config.mutable_model()->mutable_lora()->set_r(8);
  AddUtilization(config, work, values);
  EXPECT_DOUBLE_EQ(values.at("mfu"), kForward * 2 * 2 / (0.25 * 0.5e12 * 2));
}

TEST(UtilizationTest, WithoutAPeakThereIsNone) {
  v1::RunConfig config;
  StepValues values = {{"time/train_seconds", 0.25}, {"tokens", 6}};
  AddUtilization(config, WorkOf(Batch(), Model()), values);
  EXPECT_EQ(values.count("mfu"), 0);
}

}  // namespace
}  // namespace rollcall::learner
