// Losses of preferences against hand-worked numbers, and their gradients against differences.
#include "services/learner/algorithms/preference_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "services/learner/algorithms/pairwise_loss.h"

namespace rollcall::learner {
namespace {

at::Tensor Doubles(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

double Sigma(double x) { return 1 / (1 + std::exp(-x)); }
double LogSigma(double x) { return -std::log1p(std::exp(-x)); }

// One pair: log-ratios 1 and -1 over 4 and 2 tokens.
PairLogprobs OnePair() {
  return {.chosen = Doubles({-3}),
          .rejected = Doubles({-7}),
          .reference_chosen = Doubles({-4}),
          .reference_rejected = Doubles({-6}),
          .chosen_tokens = Doubles({4}),
          .rejected_tokens = Doubles({2})};
}

double LossOf(const PairwiseOptions& options) {
  return PairwiseLoss(options, OnePair()).item<double>();
}

TEST(PairwiseLoss, HandWorkedValues) {
  using enum PairwiseLossType;
  // beta 0.5: β c = 0.5, β r = -0.5, β h = 1; means: c = 0.25, r = -0.5, h = 0.75.
  const struct {
    PairwiseOptions options;
    double expected;
  } kCases[] = {
      {{.type = kSigmoid, .beta = 0.5}, -LogSigma(1)},
      {{.type = kSigmoid, .beta = 0.5, .label_smoothing = 0.25},
       -0.75 * LogSigma(1) - 0.25 * LogSigma(-1)},
      {{.type = kRobust, .beta = 0.5, .label_smoothing = 0.25},
       (-0.75 * LogSigma(1) + 0.25 * LogSigma(-1)) / 0.5},
      {{.type = kRobust, .beta = 0.5}, -LogSigma(1)},
      {{.type = kHinge, .beta = 0.25}, 0.5},
      {{.type = kHinge, .beta = 0.5}, 0},
      {{.type = kIpo, .beta = 0.5}, 1},                              // (2 - 1)²
      {{.type = kIpo, .beta = 0.5, .mean_log_prob = true}, 0.0625},  // (0.75 - 1)²
      {{.type = kSigmoidNorm, .beta = 2}, -LogSigma(1.5)},
      {{.type = kApoZero, .beta = 0.5}, 1 - Sigma(0.5) + Sigma(-0.5)},
      {{.type = kApoDown, .beta = 0.5}, Sigma(0.5) + 1 - Sigma(1)},
      {{.type = kNcaPair, .beta = 0.5},
       -LogSigma(0.5) - 0.5 * LogSigma(-0.5) - 0.5 * LogSigma(0.5)},
      {{.type = kBcoPair, .beta = 0.5}, -2 * LogSigma(0.5)},
      {{.type = kSppoHard, .beta = 0.25}, 2},  // (1 - 2)² + (-1 + 2)²
      {{.type = kDiscopop, .beta = 0.5}, -LogSigma(1) * (1 - Sigma(20)) + std::exp(-1) * Sigma(20)},
  };
  for (const auto& [options, expected] : kCases) {
    EXPECT_NEAR(LossOf(options), expected, 1e-12) << static_cast<int>(options.type);
  }
}

TEST(PairwiseLoss, SumsAndMeansAreDifferentLosses) {
  EXPECT_NE(LossOf({.type = PairwiseLossType::kIpo, .beta = 0.5}),
            LossOf({.type = PairwiseLossType::kIpo, .beta = 0.5, .mean_log_prob = true}));
  EXPECT_NE(LossOf({.type = PairwiseLossType::kSigmoid}),
            LossOf({.type = PairwiseLossType::kSigmoidNorm}));
}

// The gradient with respect to one of two inputs, by autograd against central differences.
void ExpectGradients(const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>& f,
                     std::vector<double> first, std::vector<double> second) {
  at::Tensor a = Doubles(first).requires_grad_(true), b = Doubles(second).requires_grad_(true);
  f(a, b).sum().backward();
  constexpr double kStep = 1e-6;
  const auto check = [&](std::vector<double>& values, const at::Tensor& gradient) {
    for (size_t i = 0; i < values.size(); ++i) {
      const double kept = values[i];
      values[i] = kept + kStep;
      const double above = f(Doubles(first), Doubles(second)).sum().item<double>();
      values[i] = kept - kStep;
      const double below = f(Doubles(first), Doubles(second)).sum().item<double>();
      values[i] = kept;
      EXPECT_NEAR(gradient[static_cast<int64_t>(i)].item<double>(), (above - below) / (2 * kStep),
                  1e-6);
    }
  };
  check(first, a.grad());
  check(second, b.grad());
}

TEST(PairwiseLoss, GradientsAreThoseOfTheValues) {
  using enum PairwiseLossType;
  for (const PairwiseLossType type : {kSigmoid, kIpo, kHinge, kRobust, kSigmoidNorm, kApoZero,
                                      kApoDown, kNcaPair, kBcoPair, kSppoHard, kDiscopop}) {
    SCOPED_TRACE(static_cast<int>(type));
    const PairwiseOptions options{.type = type, .beta = 0.3, .label_smoothing = 0.1};
    ExpectGradients(
        [&options](const at::Tensor& chosen, const at::Tensor& rejected) {
          return PairwiseLoss(options, {.chosen = chosen,
                                        .rejected = rejected,
                                        .reference_chosen = Doubles({-3, -5}),
                                        .reference_rejected = Doubles({-4, -2}),
                                        .chosen_tokens = Doubles({3, 2}),
                                        .rejected_tokens = Doubles({1, 5})});
        },
        {-2.5, -6.25}, {-3.5, -1.75});
  }
}

TEST(PairwiseLoss, TheReferenceGetsNoGradient) {
  at::Tensor reference = Doubles({-4}).requires_grad_(true);
  PairLogprobs pair = OnePair();
  pair.chosen.requires_grad_(true);
  pair.reference_chosen = reference;
  PairwiseLoss({}, pair).sum().backward();
  EXPECT_FALSE(reference.grad().defined());
  EXPECT_TRUE(pair.chosen.grad().defined());
}

TEST(SimpoLoss, HandWorkedValues) {
  const at::Tensor chosen = Doubles({-0.5}), rejected = Doubles({-1.25});
  // 2 · 0.75 - 0.5 = 1
  EXPECT_NEAR(SimpoLoss(2, 0.5, 0, chosen, rejected).item<double>(), -LogSigma(1), 1e-12);
  EXPECT_NEAR(SimpoLoss(2, 0.5, 0.2, chosen, rejected).item<double>(),
              -0.8 * LogSigma(1) - 0.2 * LogSigma(-1), 1e-12);
  // Without its target margin another loss.
  EXPECT_NEAR(SimpoLoss(2, 0, 0, chosen, rejected).item<double>(), -LogSigma(1.5), 1e-12);
  ExpectGradients(
      [](const at::Tensor& c, const at::Tensor& r) { return SimpoLoss(2.5, 0.75, 0.1, c, r); },
      {-0.5, -1}, {-1.25, -0.25});
}

TEST(OddsRatioLoss, HandWorkedValues) {
  // p = 1/2 and 1/4: odds 1 and 1/3.
  const at::Tensor chosen = Doubles({std::log(0.5)}), rejected = Doubles({std::log(0.25)});
  EXPECT_NEAR(LogOddsRatio(chosen, rejected).item<double>(), std::log(3), 1e-12);
  EXPECT_NEAR(OddsRatioLoss(chosen, rejected).item<double>(), -std::log(0.75), 1e-12);
  ExpectGradients([](const at::Tensor& c, const at::Tensor& r) { return OddsRatioLoss(c, r); },
                  {-0.5, -3}, {-2.5, -0.01});
}

TEST(OddsRatioLoss, ACertainCompletionHasFiniteLossAndGradient) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    at::Tensor chosen = at::tensor(std::vector<double>{0, -40}).to(dtype).requires_grad_(true);
    at::Tensor rejected = at::tensor(std::vector<double>{-1, 0}).to(dtype).requires_grad_(true);
    const at::Tensor loss = OddsRatioLoss(chosen, rejected);
    loss.sum().backward();
    EXPECT_TRUE(loss.isfinite().all().item<bool>());
    EXPECT_TRUE(chosen.grad().isfinite().all().item<bool>());
    EXPECT_TRUE(rejected.grad().isfinite().all().item<bool>());
    EXPECT_LT(loss[0].item<double>(), 1e-3);
  }
}

TEST(LabelledLoss, HandWorkedValues) {
  const at::Tensor log_ratio = Doubles({3, 3, -1, -1});
  const at::Tensor desirable = Doubles({1, 0, 1, 0});
  const LabelledOptions options{.beta = 0.5, .desirable_weight = 1, .undesirable_weight = 2};
  const at::Tensor loss = LabelledLoss(options, log_ratio, desirable, /*kl=*/1);
  EXPECT_NEAR(loss[0].item<double>(), 1 - Sigma(1), 1e-12);
  EXPECT_NEAR(loss[1].item<double>(), 2 * (1 - Sigma(-1)), 1e-12);
  EXPECT_NEAR(loss[2].item<double>(), 1 - Sigma(-1), 1e-12);
  EXPECT_NEAR(loss[3].item<double>(), 2 * (1 - Sigma(1)), 1e-12);
  // The KL moves both kinds, in opposite directions.
  const at::Tensor without = LabelledLoss(options, log_ratio, desirable, /*kl=*/0);
  EXPECT_LT(without[0].item<double>(), loss[0].item<double>());
  EXPECT_GT(without[1].item<double>(), loss[1].item<double>());
  ExpectGradients(
      [&](const at::Tensor& a, const at::Tensor& b) {
        return LabelledLoss(options, a, Doubles({1, 1}), 0.25)
            .add(LabelledLoss(options, b, Doubles({0, 0}), 0.25));
      },
      {0.5, -2}, {1.5, -0.5});
}

TEST(KlBaseline, IsAMeanThatIsNeverNegative) {
  EXPECT_EQ(KlBaseline(6, 4), 1.5);
  EXPECT_EQ(KlBaseline(-6, 4), 0);
  EXPECT_EQ(KlBaseline(0, 0), 0);
}

}  // namespace
}  // namespace rollcall::learner
