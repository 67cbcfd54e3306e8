#include "services/learner/algorithms/policy_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "services/learner/algorithms/aggregation.h"
#include "services/learner/algorithms/behavior_correction.h"
#include "services/learner/algorithms/kl.h"
#include "services/learner/algorithms/pairwise_loss.h"
#include "services/learner/algorithms/value_loss.h"

namespace rollcall::learner {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

std::vector<double> ToVector(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().to(at::kDouble).contiguous();
  return std::vector<double>(dense.const_data_ptr<double>(),
                             dense.const_data_ptr<double>() + dense.numel());
}

// The gradient of sum(f(x)) by autograd against central differences, in float64.
void ExpectGradientMatchesDifferences(const std::function<at::Tensor(const at::Tensor&)>& f,
                                      const std::vector<double>& at_values) {
  at::Tensor x = at::tensor(at_values).requires_grad_(true);
  f(x).sum().backward();
  const std::vector<double> gradient = ToVector(x.grad());
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < at_values.size(); ++i) {
    std::vector<double> above = at_values, below = at_values;
    above[i] += kStep;
    below[i] -= kStep;
    const double difference =
        (f(at::tensor(above)).sum().item<double>() - f(at::tensor(below)).sum().item<double>()) /
        (2 * kStep);
    EXPECT_NEAR(gradient[i], difference, 1e-7) << "entry " << i;
  }
}

TEST(ClippedPolicyLoss, HandWorkedTokens) {
  // Ratios 1, 2, 2, 0.5, 0.5 with both signs of the advantage; bounds [0.8, 1.3].
  const at::Tensor old = at::tensor(std::vector<double>(5, -1.0));
  at::Tensor logprobs = at::tensor(std::vector<double>{-1, -1 + std::log(2), -1 + std::log(2),
                                                       -1 + std::log(0.5), -1 + std::log(0.5)})
                            .requires_grad_(true);
  const at::Tensor advantages = at::tensor(std::vector<double>{3, 1, -1, 1, -1});
  const PolicyLoss result = ClippedPolicyLoss(logprobs, old, advantages, {.low = 0.2, .high = 0.3});
  EXPECT_THAT(ToVector(result.loss),
              ElementsAre(DoubleNear(-3, 1e-12), DoubleNear(-1.3, 1e-12), DoubleNear(2, 1e-12),
                          DoubleNear(-0.5, 1e-12), DoubleNear(0.8, 1e-12)));
  EXPECT_THAT(ToVector(result.clipped_low), ElementsAre(0, 0, 0, 0, 1));
  EXPECT_THAT(ToVector(result.clipped_high), ElementsAre(0, 1, 0, 0, 0));
  EXPECT_FALSE(result.ratio.requires_grad());

  result.loss.sum().backward();
  // -A * ratio where unclipped, 0 where a bound holds.
  EXPECT_THAT(ToVector(logprobs.grad()), ElementsAre(DoubleNear(-3, 1e-12), 0, DoubleNear(2, 1e-12),
                                                     DoubleNear(-0.5, 1e-12), 0));
}

TEST(ClippedPolicyLoss, GradientMatchesDifferences) {
  const at::Tensor old = at::tensor(std::vector<double>{-1, -2, -0.5, -3, -1.5, -0.1});
  const at::Tensor advantages = at::tensor(std::vector<double>{1, -1, 0.5, -2, 0, 1.5});
  ExpectGradientMatchesDifferences(
      [&](const at::Tensor& x) { return ClippedPolicyLoss(x, old, advantages, {}).loss; },
      {-1.05, -2.5, -0.1, -2.5, -1.0, -0.15});
}

TEST(EstimateKl, HandWorkedValues) {
  const at::Tensor logprobs = at::tensor(std::vector<double>{-1, -1, -1});
  const at::Tensor reference = at::tensor(std::vector<double>{-1, -2, 0});
  EXPECT_THAT(ToVector(EstimateKl(v1::KL_ESTIMATOR_K1, logprobs, reference)),
              ElementsAre(0, 1, -1));
  EXPECT_THAT(ToVector(EstimateKl(v1::KL_ESTIMATOR_K2, logprobs, reference)),
              ElementsAre(0, 0.5, 0.5));
  EXPECT_THAT(
      ToVector(EstimateKl(v1::KL_ESTIMATOR_K3, logprobs, reference)),
      ElementsAre(0, DoubleNear(std::exp(-1.0), 1e-12), DoubleNear(std::exp(1) - 2, 1e-12)));
}

TEST(EstimateKl, GradientsMatchDifferences) {
  const at::Tensor reference = at::tensor(std::vector<double>{-1, -2, -0.5, -3});
  for (const auto estimator : {v1::KL_ESTIMATOR_K1, v1::KL_ESTIMATOR_K2, v1::KL_ESTIMATOR_K3}) {
    ExpectGradientMatchesDifferences(
        [&](const at::Tensor& x) { return EstimateKl(estimator, x, reference); },
        {-1.5, -1.9, -0.5, -2});
  }
}

TEST(TokenWeights, HandWorkedBatch) {
  const std::vector<int64_t> counts = {2, 0, 4};
  const LossDenominators denominators = CountDenominators(counts);
  EXPECT_EQ(denominators.sequences, 2);
  EXPECT_EQ(denominators.tokens, 6);
  EXPECT_THAT(TokenWeights(v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN, counts, denominators),
              ElementsAre(0.25f, 0.25f, 0.125f, 0.125f, 0.125f, 0.125f));
  EXPECT_THAT(TokenWeights(v1::LOSS_AGGREGATION_TOKEN_MEAN, counts, denominators),
              ::testing::AllOf(::testing::SizeIs(6), ::testing::Each(1.0f / 6)));
}

TEST(TokenWeights, MicroBatchesAddUpToTheWhole) {
  const std::vector<int64_t> counts = {3, 1, 5, 2};
  const LossDenominators whole = CountDenominators(counts);
  LossDenominators summed = CountDenominators(std::span(counts).first(1));
  summed += CountDenominators(std::span(counts).subspan(1));
  EXPECT_EQ(summed.tokens, whole.tokens);
  EXPECT_EQ(summed.sequences, whole.sequences);
  for (const auto aggregation :
       {v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN, v1::LOSS_AGGREGATION_TOKEN_MEAN}) {
    const std::vector<float> together = TokenWeights(aggregation, counts, whole);
    std::vector<float> apart = TokenWeights(aggregation, std::span(counts).first(1), whole);
    const std::vector<float> rest = TokenWeights(aggregation, std::span(counts).subspan(1), whole);
    apart.insert(apart.end(), rest.begin(), rest.end());
    EXPECT_EQ(apart, together);
    double sum = 0;
    for (const float weight : together) sum += weight;
    EXPECT_NEAR(sum, 1.0, 1e-6);
  }
}

at::Tensor Doubles(const std::vector<double>& values) { return at::tensor(values); }
at::Tensor Logs(std::vector<double> values) {
  for (double& value : values) value = std::log(value);
  return at::tensor(values);
}

TEST(ClippedSurrogate, DualClipAndCapBoundTheLoss) {
  // Ratio 5, advantage -1: the surrogate is 5.
  const at::Tensor log_ratio = Logs({5, 5}), advantages = Doubles({-1, 1});
  const auto loss = [&](const SurrogateBounds& bounds) {
    return ToVector(ClippedSurrogate(log_ratio, advantages, {}, bounds).loss);
  };
  EXPECT_THAT(loss({}), ElementsAre(DoubleNear(5, 1e-12), DoubleNear(-1.2, 1e-12)));
  EXPECT_THAT(loss({.dual_clip = 3}), ElementsAre(3, DoubleNear(-1.2, 1e-12)));
  EXPECT_THAT(loss({.ratio_cap = 2}), ElementsAre(2, DoubleNear(-1.2, 1e-12)));
}

TEST(CispoLoss, EveryTokenKeepsAGradientOfBoundedWeight) {
  at::Tensor logprobs = Doubles({-1, -1}).requires_grad_(true);
  const PolicyLoss result = CispoLoss(logprobs, Logs({8, 0.5}), Doubles({2, -1}), {1.0, 4.0});
  EXPECT_THAT(ToVector(result.loss), ElementsAre(DoubleNear(10, 1e-12), DoubleNear(-0.5, 1e-12)));
  result.loss.sum().backward();
  EXPECT_THAT(ToVector(logprobs.grad()),
              ElementsAre(DoubleNear(-10, 1e-12), DoubleNear(0.5, 1e-12)));
}

TEST(ComputePolicyLoss, SequenceRatiosAreSharedByTheirTokens) {
  const at::Tensor owners = at::tensor(std::vector<int64_t>{0, 0, 1});
  const at::Tensor log_ratio = Logs({4, 1, 3});
  EXPECT_THAT(ToVector(LogRatioAtLevel(v1::RATIO_LEVEL_SEQUENCE_MEAN, log_ratio, owners, 2).exp()),
              ElementsAre(DoubleNear(2, 1e-12), DoubleNear(2, 1e-12), DoubleNear(3, 1e-12)));
  EXPECT_THAT(ToVector(LogRatioAtLevel(v1::RATIO_LEVEL_SEQUENCE_SUM, log_ratio, owners, 2).exp()),
              ElementsAre(DoubleNear(4, 1e-12), DoubleNear(4, 1e-12), DoubleNear(3, 1e-12)));
  const at::Tensor old = Doubles({-1, -2, -0.5}), advantages = Doubles({1, 1, -2});
  for (const auto level :
       {v1::RATIO_LEVEL_TOKEN, v1::RATIO_LEVEL_SEQUENCE_MEAN, v1::RATIO_LEVEL_SEQUENCE_SUM}) {
    ExpectGradientMatchesDifferences(
        [&](const at::Tensor& x) {
          return ComputePolicyLoss({.ratio_level = level, .max_log_ratio = 20}, x, old, advantages,
                                   owners, 2)
              .loss;
        },
        {-0.9, -2.05, -0.6});
  }
}

TEST(ComputePolicyLoss, ReinforceHasNoRatio) {
  at::Tensor logprobs = Doubles({-1, -2}).requires_grad_(true);
  const PolicyLoss result =
      ComputePolicyLoss({.type = v1::POLICY_LOSS_TYPE_REINFORCE}, logprobs, Doubles({-5, -2}),
                        Doubles({2, -1}), at::tensor(std::vector<int64_t>{0, 0}), 1);
  EXPECT_THAT(ToVector(result.loss), ElementsAre(2, -2));
  result.loss.sum().backward();
  EXPECT_THAT(ToVector(logprobs.grad()), ElementsAre(-2, 1));
}

TEST(EstimateKl, StraightThroughHasTheGradientOfK2) {
  const at::Tensor reference = Doubles({-2, -3});
  at::Tensor logprobs = Doubles({-1, -5}).requires_grad_(true);
  const at::Tensor kl = EstimateKl(
      KlOptions{.estimator = v1::KL_ESTIMATOR_K1, .straight_through = true}, logprobs, reference);
  EXPECT_THAT(ToVector(kl), ElementsAre(1, -2));
  kl.sum().backward();
  EXPECT_THAT(ToVector(logprobs.grad()), ElementsAre(1, -2));
  EXPECT_THAT(ToVector(EstimateKl(KlOptions{.estimator = v1::KL_ESTIMATOR_ABS, .max_value = 1.5},
                                  logprobs.detach(), reference)),
              ElementsAre(1, 1.5));
}

TEST(LogRatioAtLevel, TheTokenFormHasTheSequencesValueAndTheTokensGradient) {
  const at::Tensor owners = at::tensor(std::vector<int64_t>{0, 0, 1});
  at::Tensor log_ratio = Doubles({1, 3, 5}).requires_grad_(true);
  const at::Tensor weights = Doubles({1, 10, 100});
  for (const auto level : {v1::RATIO_LEVEL_SEQUENCE_MEAN, v1::RATIO_LEVEL_SEQUENCE_MEAN_TOKEN}) {
    if (log_ratio.grad().defined()) log_ratio.mutable_grad().zero_();
    const at::Tensor result = LogRatioAtLevel(level, log_ratio, owners, 2);
    EXPECT_THAT(ToVector(result), ElementsAre(2, 2, 5));
    result.mul(weights).sum().backward();
    const bool own = level == v1::RATIO_LEVEL_SEQUENCE_MEAN_TOKEN;
    EXPECT_THAT(ToVector(log_ratio.grad()), ElementsAre(own ? 1.0 : 5.5, own ? 10.0 : 5.5, 100.0));
  }
}

TEST(BehaviorWeights, TruncateAndMaskAtEachLevel) {
  const at::Tensor owners = at::tensor(std::vector<int64_t>{0, 0, 1});
  const at::Tensor proximal = Logs({4, 1, 0.5}), behavior = Doubles({0, 0, 0});
  const auto weights = [&](v1::BehaviorCorrection mode, double min, double max) {
    return ToVector(
        BehaviorWeights({.mode = mode, .min = min, .max = max}, proximal, behavior, owners, 2));
  };
  const auto near = [](double value) { return DoubleNear(value, 1e-12); };
  EXPECT_THAT(weights(v1::BEHAVIOR_CORRECTION_NONE, 0, 1), ElementsAre(1, 1, 1));
  EXPECT_THAT(weights(v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE, 0, 2), ElementsAre(2, 1, near(0.5)));
  EXPECT_THAT(weights(v1::BEHAVIOR_CORRECTION_TOKEN_MASK, 0.6, 3), ElementsAre(0, 1, 0));
  EXPECT_THAT(weights(v1::BEHAVIOR_CORRECTION_SEQUENCE_TRUNCATE, 0, 3),
              ElementsAre(3, 3, near(0.5)));
  EXPECT_THAT(weights(v1::BEHAVIOR_CORRECTION_SEQUENCE_MASK, 0, 3), ElementsAre(0, 0, near(0.5)));
  EXPECT_THAT(weights(v1::BEHAVIOR_CORRECTION_SEQUENCE_MEAN_MASK, 0.6, 3),
              ElementsAre(near(4), 1, 0));
}

TEST(ClippedValueLoss, TheLargerBranchCounts) {
  at::Tensor values = Doubles({2, 0.1}).requires_grad_(true);
  const ValueLoss result = ClippedValueLoss(values, Doubles({0, 0}), Doubles({2, 0}), 0.5);
  EXPECT_THAT(ToVector(result.loss),
              ElementsAre(DoubleNear(0.5 * 1.5 * 1.5, 1e-12), DoubleNear(0.005, 1e-12)));
  EXPECT_THAT(ToVector(result.clipped), ElementsAre(1, 0));
  result.loss.sum().backward();
  EXPECT_THAT(ToVector(values.grad()), ElementsAre(0, DoubleNear(0.1, 1e-12)));
  EXPECT_THAT(ToVector(ClippedValueLoss(values, Doubles({0, 0}), Doubles({2, 0}), 0).loss),
              ElementsAre(0, DoubleNear(0.005, 1e-12)));
}

TEST(FirstIsPreferred, ATiePrefersTheFirst) {
  EXPECT_THAT(FirstIsPreferred({1, 2, 2}, {2, 2, 1}), ElementsAre(false, true, true));
}

TEST(TokenWeights, SumsHaveTheDenominatorsOfTheirPapers) {
  const std::vector<int64_t> counts = {2, 0, 1};
  LossDenominators denominators = CountDenominators(counts);
  denominators.constant_length = 8;
  EXPECT_THAT(TokenWeights(v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_SUM, counts, denominators),
              ElementsAre(0.5f, 0.5f, 0.5f));
  EXPECT_THAT(TokenWeights(v1::LOSS_AGGREGATION_CONSTANT_LENGTH, counts, denominators),
              ElementsAre(0.0625f, 0.0625f, 0.0625f));
}

}  // namespace
}  // namespace rollcall::learner
