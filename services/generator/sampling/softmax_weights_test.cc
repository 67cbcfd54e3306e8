#include "services/generator/sampling/softmax_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "common/base/philox.h"

namespace rollcall::generator {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(SoftmaxWeightsTest, ExponentialIsRightToThreeUlp) {
  PhiloxStream random(1, 1);
  std::vector<float> logits = {0.0f};
  for (int i = 0; i < 200000; ++i) {
    logits.push_back(static_cast<float>(-std::exp(random.Uniform() * 16.0 - 9.0)));
  }
  std::vector<double> weights(logits.size());
  ASSERT_TRUE(SoftmaxWeights(logits, 0.7, weights).ok());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double x = static_cast<double>(logits[i]) / 0.7;
    if (x < -700.0) {
      ASSERT_EQ(weights[i], 0.0);
      continue;
    }
    ASSERT_NEAR(weights[i] / std::exp(x), 1.0, 3 * std::numeric_limits<double>::epsilon()) << x;
  }
  EXPECT_EQ(weights[0], 1.0);
}

TEST(SoftmaxWeightsTest, MaskedTokensWeighNothing) {
  const std::vector<float> logits = {-kInfinity, 3.0f, -kInfinity};
  std::vector<double> weights(3);
  const auto max = SoftmaxWeights(logits, 1.0, weights);
  ASSERT_TRUE(max.ok());
  EXPECT_EQ(*max, 3.0f);
  EXPECT_EQ(weights, (std::vector<double>{0.0, 1.0, 0.0}));
}

TEST(SoftmaxWeightsTest, RefusesBrokenLogits) {
  std::vector<double> weights(2);
  const std::vector<std::vector<float>> broken = {
      {1.0f, kInfinity}, {std::nanf(""), 1.0f}, {1.0f, std::nanf("")}, {-kInfinity, -kInfinity}};
  for (const auto& logits : broken) {
    EXPECT_EQ(SoftmaxWeights(logits, 1.0, weights).status().code(), absl::StatusCode::kInternal);
    EXPECT_EQ(FirstArgmax(logits).status().code(), absl::StatusCode::kInternal);
  }
}

TEST(FirstArgmaxTest, TakesTheFirstOfEquals) {
  const std::vector<float> logits = {-1.0f, 5.0f, 2.0f, 5.0f};
  EXPECT_EQ(FirstArgmax(logits).value(), 1u);
}

}  // namespace
}  // namespace rollcall::generator
