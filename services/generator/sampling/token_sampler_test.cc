#include "services/generator/sampling/token_sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/base/philox.h"

namespace rollcall::generator {
namespace {

using ::testing::ElementsAre;

// Probabilities 0.1, 0.4, 0.2, 0.3.
std::vector<float> Logits() {
  return {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
}

TEST(TokenSamplerTest, DrawIsTheInverseOfTheCumulativeSum) {
  TokenSampler sampler;
  const std::vector<std::pair<double, uint32_t>> cases = {{0.0, 0},  {0.09, 0},         {0.11, 1},
                                                          {0.49, 1}, {0.51, 2},         {0.69, 2},
                                                          {0.71, 3}, {1.0 - 0x1p-53, 3}};
  for (const auto& [uniform, token] : cases) {
    const auto sampled = sampler.Sample(Logits(), {}, uniform);
    ASSERT_TRUE(sampled.ok());
    EXPECT_EQ(sampled->token, token) << uniform;
    EXPECT_EQ(sampled->sampling_logprob, 0.0f);
    EXPECT_EQ(sampled->kept_log_mass, 0.0f);
  }
}

TEST(TokenSamplerTest, NeverDrawsATokenWithoutProbability) {
  TokenSampler sampler;
  const float masked = -std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {masked, 0.0f, masked, 0.0f, masked};
  for (const double uniform : {0.0, 0.5, 1.0 - 0x1p-53}) {
    const uint32_t token = sampler.Sample(logits, {}, uniform)->token;
    EXPECT_TRUE(token == 1 || token == 3) << token;
  }
}

TEST(TokenSamplerTest, GreedyTakesTheFirstLargest) {
  TokenSampler sampler;
  const std::vector<float> logits = {0.0f, 2.0f, 2.0f, 1.0f};
  EXPECT_EQ(sampler.Sample(logits, {.temperature = 0, .top_k = 1}, 0.99)->token, 1u);
}

TEST(TokenSamplerTest, TruncatedLogProbsAddUp) {
  TokenSampler sampler;
  // Kept: 0.4 and 0.3, together 0.7.
  const SamplingOptions options{.top_k = 2};
  const auto sampled = sampler.Sample(Logits(), options, 0.0);
  ASSERT_TRUE(sampled.ok());
  EXPECT_EQ(sampled->token, 1u);
  EXPECT_NEAR(sampled->sampling_logprob, std::log(0.4 / 0.7), 1e-6);
  EXPECT_NEAR(sampled->kept_log_mass, std::log(0.7), 1e-6);
  EXPECT_EQ(sampler.Sample(Logits(), options, 0.999)->token, 3u);
}

TEST(TokenSamplerTest, TopKKeepsTies) {
  TokenSampler sampler;
  const std::vector<float> logits = {1.0f, 3.0f, 2.0f, 2.0f, 2.0f};
  EXPECT_THAT(sampler.KeptTokens(logits, {.top_k = 2})->tokens, ElementsAre(1, 2, 3, 4));
}

TEST(TokenSamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  TokenSampler sampler;
  EXPECT_THAT(sampler.KeptTokens(Logits(), {.top_p = 0.65f})->tokens, ElementsAre(1, 3));
  EXPECT_THAT(sampler.KeptTokens(Logits(), {.top_p = 0.75f})->tokens, ElementsAre(1, 2, 3));
  EXPECT_THAT(sampler.KeptTokens(Logits(), {.top_p = 1e-6f})->tokens, ElementsAre(1));
}

TEST(TokenSamplerTest, TopPWorksOnWhatTopKLeft) {
  TokenSampler sampler;
  // Of 0.4, 0.3, 0.2 (4/9, 3/9, 2/9) two reach 0.75; of the whole distribution they would not.
  EXPECT_THAT(sampler.KeptTokens(Logits(), {.top_k = 3, .top_p = 0.75f})->tokens,
              ElementsAre(1, 3));
}

TEST(TokenSamplerTest, TopPOverManyPieces) {
  TokenSampler sampler;
  const std::vector<float> logits(5000, 1.0f);
  const auto kept = sampler.KeptTokens(logits, {.top_p = 0.5f});
  ASSERT_TRUE(kept.ok());
  ASSERT_EQ(kept->tokens.size(), 2500u);
  EXPECT_EQ(kept->tokens.back(), 2499u);
}

TEST(TokenSamplerTest, MinPComparesWithTheLargest) {
  TokenSampler sampler;
  EXPECT_THAT(sampler.KeptTokens(Logits(), {.min_p = 0.45f})->tokens, ElementsAre(1, 2, 3));
  EXPECT_THAT(sampler.KeptTokens(Logits(), {.min_p = 1.0f})->tokens, ElementsAre(1));
}

TEST(TokenSamplerTest, RulesChangeWhatIsDrawnAndItsLogProb) {
  TokenSampler sampler;
  const std::vector<uint32_t> completion = {1};
  const SamplingOptions banned{.rules = {.no_repeat_ngram_size = 1}};
  const auto sampled =
      sampler.Sample(Logits(), banned, 0.0, {.prompt = {}, .completion = completion});
  ASSERT_TRUE(sampled.ok());
  EXPECT_EQ(sampled->token, 0u);
  EXPECT_NEAR(sampled->sampling_logprob, std::log(0.1 / 0.6), 1e-6);
  EXPECT_EQ(sampled->kept_log_mass, 0.0f);
  const SamplingOptions greedy{.temperature = 0, .rules = {.presence_penalty = 2}};
  EXPECT_EQ(sampler.Sample(Logits(), greedy, 0, {.prompt = {}, .completion = completion})->token,
            3u);
  // Truncation works on the changed logits: 0.1, 0.2, 0.3 are left.
  const SamplingOptions both{.top_k = 2, .rules = banned.rules};
  EXPECT_THAT(sampler.KeptTokens(Logits(), both, {.prompt = {}, .completion = completion})->tokens,
              ElementsAre(2, 3));
}

TEST(TokenSamplerTest, FrequenciesFollowTheProbabilities) {
  TokenSampler sampler;
  constexpr int kDraws = 200000;
  std::vector<int> counts(4, 0);
  for (uint32_t i = 0; i < kDraws; ++i) {
    ++counts[sampler.Sample(Logits(), {}, UniformFor(7, 1, 3, 0, i))->token];
  }
  const std::vector<double> expected = {0.1, 0.4, 0.2, 0.3};
  // Five standard deviations of a binomial share.
  for (size_t i = 0; i < 4; ++i) {
    const double sigma = std::sqrt(expected[i] * (1 - expected[i]) / kDraws);
    EXPECT_NEAR(static_cast<double>(counts[i]) / kDraws, expected[i], 5 * sigma);
  }
}

TEST(TokenSamplerTest, ReportsBrokenLogits) {
  TokenSampler sampler;
  const std::vector<float> logits = {0.0f, std::nanf("")};
  EXPECT_EQ(sampler.Sample(logits, {}, 0.5).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(sampler.Sample(logits, {.temperature = 0}, 0.5).status().code(),
            absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace rollcall::generator
