#include "services/learner/algorithms/policy_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "services/learner/algorithms/aggregation.h"
#include "services/learner/algorithms/kl.h"

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

}  // namespace
}  // namespace rollcall::learner
