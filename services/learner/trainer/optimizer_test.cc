// The pieces of an update: schedule, norm, AdamW, the permuted rewards of the control experiment.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "common/model/test_models.h"
#include "services/learner/trainer/adamw.h"
#include "services/learner/trainer/gradient_norm.h"
#include "services/learner/trainer/lr_schedule.h"
#include "services/learner/trainer/reward_permutation.h"
#include "services/learner/trainer/written_number.h"

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;

TEST(WrittenNumber, IsTheDecimalThatWasWritten) {
  EXPECT_EQ(WrittenNumber(0.999f), 0.999);
  EXPECT_EQ(WrittenNumber(1e-8f), 1e-8);
  EXPECT_EQ(WrittenNumber(0.0f), 0.0);
  EXPECT_EQ(WrittenNumber(3e-4f), 3e-4);
}

TEST(LearningRateAt, WarmsUpThenStaysOrFalls) {
  v1::OptimizerSection optimizer;
  optimizer.set_lr(1.0f);
  optimizer.set_warmup_steps(4);
  optimizer.set_min_lr_ratio(0.1f);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 1, 104), 0.25);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 4, 104), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 90, 104), 1.0);
  optimizer.set_schedule(v1::LR_SCHEDULE_COSINE);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 4, 104), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 54, 104), 0.55);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 104, 104), 0.1);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 300, 104), 0.1);
  optimizer.set_warmup_steps(0);
  EXPECT_DOUBLE_EQ(LearningRateAt(optimizer, 1, 0), 1.0);
}

at::Tensor Floats(std::vector<float> values) { return at::tensor(values); }

TEST(GlobalNorm, IsTheSameForAnyNumberOfThreads) {
  PhiloxStream random(3, 0);
  const std::vector<at::Tensor> gradients = {model::testing::RandomNormal({100000}, random),
                                             model::testing::RandomNormal({3}, random)};
  double expected = 0;
  for (const at::Tensor& gradient : gradients) {
    expected += gradient.to(at::kDouble).square().sum().item<double>();
  }
  const model::testing::ThreadCount one(1);
  const double norm = GlobalNorm(gradients);
  EXPECT_NEAR(norm, std::sqrt(expected), 1e-9 * norm);
  const model::testing::ThreadCount two(2);
  EXPECT_EQ(GlobalNorm(gradients), norm);
  EXPECT_TRUE(std::isnan(GlobalNorm(std::vector{Floats({1, std::nanf("")})})));
}

TEST(ClipToNorm, ScalesOnlyWhatIsTooLong) {
  const std::vector<at::Tensor> gradients = {Floats({3, 0}), Floats({-4})};
  ClipToNorm(gradients, 5, 10);
  EXPECT_EQ(gradients[1].item<float>(), -4);
  ClipToNorm(gradients, 5, 0);
  EXPECT_EQ(gradients[1].item<float>(), -4);
  ClipToNorm(gradients, 5, 1);
  EXPECT_NEAR(gradients[0][0].item<float>(), 0.6, 1e-6);
  EXPECT_NEAR(gradients[1].item<float>(), -0.8, 1e-6);
}

v1::OptimizerSection Options() {
  v1::OptimizerSection options;
  options.set_beta1(0.9f);
  options.set_beta2(0.99f);
  options.set_epsilon(1e-8f);
  options.set_weight_decay(0.1f);
  return options;
}

// torch.optim.AdamW's documented update, in float64.
class ReferenceAdamW {
 public:
  explicit ReferenceAdamW(double value) : value_(value) {}
  double Update(double gradient, double lr) {
    ++t_;
    value_ *= 1 - lr * 0.1;
    m_ = 0.9 * m_ + 0.1 * gradient;
    v_ = 0.99 * v_ + 0.01 * gradient * gradient;
    const double m_hat = m_ / (1 - std::pow(0.9, t_));
    const double v_hat = v_ / (1 - std::pow(0.99, t_));
    value_ -= lr * m_hat / (std::sqrt(v_hat) + 1e-8);
    return value_;
  }

 private:
  double value_, m_ = 0, v_ = 0;
  int t_ = 0;
};

TEST(AdamW, FollowsTheDocumentedUpdate) {
  const std::vector<tensor::NamedTensor> parameters = {{"a", Floats({1.0f, -2.0f})},
                                                       {"b", Floats({0.5f})}};
  AdamW optimizer(parameters, Options());
  ReferenceAdamW a0(1.0), a1(-2.0), b0(0.5);
  for (int t = 1; t <= 20; ++t) {
    const float g = std::sin(static_cast<float>(t));
    const double lr = 0.01 * t;
    optimizer.Update(std::vector{Floats({g, 2 * g}), Floats({-g})}, lr);
    EXPECT_NEAR(parameters[0].tensor[0].item<float>(), a0.Update(g, lr), 2e-6) << t;
    EXPECT_NEAR(parameters[0].tensor[1].item<float>(), a1.Update(2 * g, lr), 2e-6) << t;
    EXPECT_NEAR(parameters[1].tensor[0].item<float>(), b0.Update(-g, lr), 2e-6) << t;
  }
  EXPECT_EQ(optimizer.updates(), 20);
}

TEST(AdamW, NarrowParametersKeepFloat32Masters) {
  const std::vector<tensor::NamedTensor> parameters = {{"a", Floats({1.0f}).to(at::kBFloat16)}};
  v1::OptimizerSection options = Options();
  options.set_weight_decay(0);
  AdamW optimizer(parameters, options);
  // A step of 1e-4 is lost in bfloat16 (spacing 2^-8 below 1), but not in the master.
  for (int t = 0; t < 100; ++t) optimizer.Update(std::vector{Floats({1.0f})}, 1e-4);
  EXPECT_NEAR(parameters[0].tensor.item<float>(), 0.99f, 0.002);
  bool has_master = false;
  for (const auto& [name, value] : optimizer.State()) {
    if (name != "master.a") continue;
    has_master = true;
    EXPECT_NEAR(value.item<float>(), 0.99f, 1e-5);
  }
  EXPECT_TRUE(has_master);
}

TEST(AdamW, RestoresOnlyItsOwnState) {
  const std::vector<tensor::NamedTensor> parameters = {{"a", Floats({1.0f, 2.0f})}};
  AdamW optimizer(parameters, Options());
  optimizer.Update(std::vector{Floats({1.0f, -1.0f})}, 0.1);
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, value] : optimizer.State()) state[name] = value.clone();
  EXPECT_TRUE(optimizer.Check(state).ok());

  auto missing = state;
  missing.erase("exp_avg.a");
  EXPECT_THAT(std::string(optimizer.Check(missing).message()), HasSubstr("exp_avg.a is missing"));
  auto reshaped = state;
  reshaped["exp_avg_sq.a"] = Floats({1.0f});
  EXPECT_THAT(std::string(optimizer.Check(reshaped).message()), HasSubstr("exp_avg_sq.a"));
  auto surplus = state;
  surplus["exp_avg.z"] = Floats({1.0f});
  EXPECT_FALSE(optimizer.Check(surplus).ok());
}

TEST(PermuteRewards, IsAFixedPermutationOfTheScored) {
  TrainBatch batch;
  for (uint64_t i = 0; i < 40; ++i) {
    TrainSequence sequence;
    sequence.group_id = i;
    if (i != 5) sequence.reward = static_cast<double>(i);
    batch.sequences.push_back(sequence);
  }
  const auto permuted = [&](uint64_t seed, uint64_t step) {
    TrainBatch copy = batch;
    PermuteRewards(copy, seed, step);
    std::vector<double> rewards;
    for (const auto& sequence : copy.sequences) rewards.push_back(sequence.reward.value_or(-1));
    return rewards;
  };
  const std::vector<double> first = permuted(1, 1);
  EXPECT_EQ(first[5], -1);
  EXPECT_EQ(std::set<double>(first.begin(), first.end()).size(), 40u);
  EXPECT_EQ(permuted(1, 1), first);
  EXPECT_NE(permuted(1, 2), first);
  EXPECT_NE(permuted(2, 1), first);
}

}  // namespace
}  // namespace rollcall::learner
