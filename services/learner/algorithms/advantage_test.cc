#include "services/learner/algorithms/advantage.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "services/learner/algorithms/reward_shaping.h"
#include "services/learner/algorithms/token_advantage.h"

namespace rollcall::learner {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::vector<double>> Advantages(const std::vector<double>& rewards,
                                               const std::vector<int64_t>& groups,
                                               const GroupNormalization& options = {}) {
  auto result = GroupNormalizedAdvantages(at::tensor(rewards), at::tensor(groups), options);
  if (!result.ok()) return result.status();
  EXPECT_EQ(result->scalar_type(), at::kDouble);
  const double* data = result->const_data_ptr<double>();
  return std::vector<double>(data, data + result->numel());
}

TEST(GroupNormalizedAdvantages, HandWorkedGroup) {
  // mean 0.5, deviations +-0.5, variance 4 * 0.25 / 3.
  const double std = std::sqrt(1.0 / 3.0);
  const auto advantages = Advantages({1, 0, 0, 1}, {7, 7, 7, 7}, {.epsilon = 0.1});
  ASSERT_TRUE(advantages.ok()) << advantages.status();
  const double expected = 0.5 / (std + 0.1);
  EXPECT_THAT(*advantages, ElementsAre(DoubleNear(expected, 1e-12), DoubleNear(-expected, 1e-12),
                                       DoubleNear(-expected, 1e-12), DoubleNear(expected, 1e-12)));
}

TEST(GroupNormalizedAdvantages, MeanOnlyLeavesTheScale) {
  const auto advantages = Advantages({4, 0, 1, 3}, {1, 1, 2, 2},
                                     {.normalization = v1::ADVANTAGE_NORMALIZATION_GROUP_MEAN});
  ASSERT_TRUE(advantages.ok()) << advantages.status();
  EXPECT_THAT(*advantages, ElementsAre(2, -2, -1, 1));
}

TEST(GroupNormalizedAdvantages, EqualRewardsGiveExactlyZero) {
  // The mean of three 0.1f is not 0.1f: only max - min sees that they are equal.
  const at::Tensor rewards = at::tensor({0.1f, 0.1f, 0.1f});
  const auto advantages =
      GroupNormalizedAdvantages(rewards, at::tensor(std::vector<int64_t>(3, 1)), {.epsilon = 0});
  ASSERT_TRUE(advantages.ok()) << advantages.status();
  EXPECT_EQ(advantages->scalar_type(), at::kFloat);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(advantages->const_data_ptr<float>()[i], 0.0f);
}

TEST(GroupNormalizedAdvantages, PermutingSequencesPermutesTheResultExactly) {
  const std::vector<double> rewards = {0.1, 0.7, 0.3, 0.2, 0.9, 0.4};
  const std::vector<int64_t> groups = {1, 2, 1, 2, 1, 2};
  const std::vector<size_t> order = {4, 1, 5, 0, 3, 2};
  std::vector<double> shuffled_rewards;
  std::vector<int64_t> shuffled_groups;
  for (const size_t i : order) {
    shuffled_rewards.push_back(rewards[i]);
    shuffled_groups.push_back(groups[i]);
  }
  const auto plain = Advantages(rewards, groups);
  const auto shuffled = Advantages(shuffled_rewards, shuffled_groups);
  ASSERT_TRUE(plain.ok() && shuffled.ok());
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ((*shuffled)[i], (*plain)[order[i]]);
}

TEST(GroupNormalizedAdvantages, AddingAConstantToAGroupChangesNothing) {
  const auto plain = Advantages({0.25, 0.5, 1, 0}, {1, 1, 2, 2});
  const auto raised = Advantages({8.25, 8.5, 1, 0}, {1, 1, 2, 2});
  ASSERT_TRUE(plain.ok() && raised.ok());
  for (size_t i = 0; i < plain->size(); ++i) EXPECT_THAT((*raised)[i], DoubleEq((*plain)[i]));
}

TEST(GroupNormalizedAdvantages, RefusesWhatHasNoAdvantage) {
  const auto single = Advantages({1, 0, 1}, {3, 3, 9});
  EXPECT_EQ(single.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(single.status().message()), HasSubstr("group 9 has one scored sequence"));

  const auto not_a_number = Advantages({1, std::numeric_limits<double>::quiet_NaN()}, {3, 3});
  EXPECT_EQ(not_a_number.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(not_a_number.status().message()), HasSubstr("sequence 1 in group 3"));

  EXPECT_EQ(Advantages({1, 0}, {3, 3, 3}).status().code(), absl::StatusCode::kInvalidArgument);
}

at::Tensor Doubles(const std::vector<double>& values) { return at::tensor(values); }
at::Tensor Ids(const std::vector<int64_t>& values) { return at::tensor(values); }

std::vector<double> Values(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.contiguous();
  return {dense.const_data_ptr<double>(), dense.const_data_ptr<double>() + dense.numel()};
}

TEST(GroupNormalizedAdvantages, BatchStdDividesEveryGroupByTheSame) {
  // Rewards 0 1 4 8: mean 3.25, squares 38.75, variance 12.9166….
  const auto advantages =
      Advantages({0, 1, 4, 8}, {1, 1, 2, 2},
                 {.normalization = v1::ADVANTAGE_NORMALIZATION_BATCH_STD, .epsilon = 0});
  ASSERT_TRUE(advantages.ok()) << advantages.status();
  const double std = std::sqrt(38.75 / 3);
  EXPECT_THAT(*advantages, ElementsAre(DoubleNear(-0.5 / std, 1e-12), DoubleNear(0.5 / std, 1e-12),
                                       DoubleNear(-2 / std, 1e-12), DoubleNear(2 / std, 1e-12)));
}

TEST(LeaveOneOutAdvantages, TakesTheMeanOfTheOthers) {
  const auto advantages = LeaveOneOutAdvantages(Doubles({1, 0, 0, 5, 5}), Ids({1, 1, 1, 2, 2}));
  ASSERT_TRUE(advantages.ok()) << advantages.status();
  EXPECT_THAT(Values(*advantages), ElementsAre(DoubleNear(1, 1e-12), DoubleNear(-0.5, 1e-12),
                                               DoubleNear(-0.5, 1e-12), 0, 0));
  EXPECT_FALSE(LeaveOneOutAdvantages(Doubles({1}), Ids({1})).ok());
}

TEST(LengthWeightedAdvantages, LongCompletionsWeighMoreInTheBaseline) {
  // Baseline (3 * 1 + 1 * 0) / 4.
  const auto advantages = LengthWeightedAdvantages(Doubles({1, 0}), Ids({1, 1}), Ids({3, 1}));
  ASSERT_TRUE(advantages.ok()) << advantages.status();
  EXPECT_THAT(Values(*advantages), ElementsAre(0.25, -0.75));
  const auto empty = LengthWeightedAdvantages(Doubles({1, 0}), Ids({1, 1}), Ids({0, 0}));
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_THAT(Values(*empty), Each(0.0));
}

TEST(SequenceBaselines, AddingAConstantChangesNothing) {
  const at::Tensor groups = Ids({1, 1, 2, 2}), lengths = Ids({1, 2, 3, 4});
  const at::Tensor rewards = Doubles({0.25, 0.5, 1, 0}), raised = rewards.add(8);
  const auto equal = [](const at::Tensor& a, const at::Tensor& b) {
    return a.sub(b).abs().max().item<double>() < 1e-12;
  };
  EXPECT_TRUE(
      equal(*LeaveOneOutAdvantages(rewards, groups), *LeaveOneOutAdvantages(raised, groups)));
  EXPECT_TRUE(equal(*LengthWeightedAdvantages(rewards, groups, lengths),
                    *LengthWeightedAdvantages(raised, groups, lengths)));
  EXPECT_TRUE(equal(BatchNormalized(rewards, 1e-4), BatchNormalized(raised, 1e-4)));
}

TEST(GeneralizedAdvantages, HandWorkedCompletion) {
  // gamma 0.5, lambda 0.5: delta_1 = 1 - 2, delta_0 = 0 + 0.5 * 2 - 1.
  const std::vector<int64_t> lengths = {2};
  const GaeEstimate estimate = GeneralizedAdvantages(
      Doubles({0, 1}), Doubles({1, 2}), Doubles({1, 1}), lengths, {.gamma = 0.5, .lambda = 0.5});
  EXPECT_THAT(Values(estimate.advantages), ElementsAre(-0.25, -1));
  EXPECT_THAT(Values(estimate.returns), ElementsAre(0.75, 1));
}

TEST(GeneralizedAdvantages, MaskedTokensAreSteppedOverOrCountAsNothing) {
  const std::vector<int64_t> lengths = {3};
  const at::Tensor rewards = Doubles({0, 9, 1}), values = Doubles({1, 7, 2});
  const at::Tensor mask = Doubles({1, 0, 1});
  const GaeOptions carry{.gamma = 0.5, .lambda = 0.5};
  EXPECT_EQ(Values(GeneralizedAdvantages(rewards, values, mask, lengths, carry).advantages)[0],
            -0.25);
  const GaeOptions zero{.gamma = 0.5, .lambda = 0.5, .carry_over_masked = false};
  // delta_2 = -1, delta_1 = 0 + 0.5 * 2 - 0 = 1, A_1 = 1 - 0.25, delta_0 = -1, A_0 = -1 + 0.1875.
  EXPECT_EQ(Values(GeneralizedAdvantages(rewards, values, mask, lengths, zero).advantages)[0],
            -0.8125);
}

TEST(RewardToGo, ACompletionEndsTheSumAndGapsAreDiscountedOrSteppedOver) {
  const std::vector<int64_t> lengths = {3, 1};
  const at::Tensor rewards = Doubles({1, 2, 4, 8}), mask = Doubles({1, 0, 1, 1});
  EXPECT_THAT(Values(RewardToGo(rewards, mask, lengths, 0.5, GapRule::kDropMaskedRewards)),
              ElementsAre(2, 2, 4, 8));
  const std::vector<double> carried =
      Values(RewardToGo(rewards, mask, lengths, 0.5, GapRule::kCarryOver));
  EXPECT_EQ(carried[0], 3);
  EXPECT_EQ(carried[2], 4);
  EXPECT_EQ(carried[3], 8);
}

TEST(Whiten, KeepsTheMeanWhereOnlyTheScaleIsMeant) {
  const at::Tensor values = Doubles({1, 3, 100}), mask = Doubles({1, 1, 0});
  const std::vector<double> scaled =
      Values(Whiten(values, mask, {.unbiased = false, .added = 0, .keep_mean = true}));
  EXPECT_NEAR(scaled[0], 1, 1e-12);
  EXPECT_NEAR(scaled[1], 3, 1e-12);
  EXPECT_EQ(Values(Whiten(values, Doubles({0, 1, 0}), {.keep_mean = true}))[1], 3);
}

TEST(Whiten, MomentsOfUnmaskedTokensOnly) {
  const at::Tensor values = Doubles({1, 3, 100}), mask = Doubles({1, 1, 0});
  const std::vector<double> unbiased = Values(Whiten(values, mask, {.added = 0}));
  EXPECT_NEAR(unbiased[0], -1 / std::sqrt(2.0), 1e-12);
  EXPECT_NEAR(Values(Whiten(values, mask, {.unbiased = false, .added = 0}))[1], 1, 1e-12);
  EXPECT_THAT(Values(Whiten(Doubles({5, 5}), Doubles({1, 1}))), Each(0.0));
  EXPECT_THAT(Values(Whiten(Doubles({5, 7}), Doubles({1, 0}))), Each(0.0));
}

TEST(TokenRewards, ScoreSitsOnTheLastUnmaskedToken) {
  const std::vector<int64_t> lengths = {3, 2};
  const at::Tensor rewards = TokenRewards(Doubles({1, 5}), Doubles({1, 2, 3, 4, 4}),
                                          Doubles({1, 1, 0, 0, 0}), lengths, 0.5);
  EXPECT_THAT(Values(rewards), ElementsAre(-0.5, 0, 0, 0, 0));
}

TEST(OverlongPunishment, GrowsOverTheBuffer) {
  const OverlongOptions options{.max_tokens = 100, .buffer = 20, .factor = 2};
  EXPECT_EQ(OverlongPunishment(80, options), 0);
  EXPECT_EQ(OverlongPunishment(90, options), -1);
  EXPECT_EQ(OverlongPunishment(140, options), -2);
  EXPECT_EQ(OverlongPunishment(140, {.max_tokens = 100, .buffer = 20, .bounded = false}), -3);
  EXPECT_EQ(OverlongPunishment(140, {.max_tokens = 100}), 0);
}

TEST(AdaptedKlCoefficient, MovesTowardsTheTargetWithinBounds) {
  EXPECT_DOUBLE_EQ(AdaptedKlCoefficient(0.1, 0.2, 0.1, 100, 10), 0.102);  // clipped at + 0.2
  EXPECT_DOUBLE_EQ(AdaptedKlCoefficient(0.1, 0.09, 0.1, 100, 10), 0.1 * (1 - 0.01));
}

}  // namespace
}  // namespace rollcall::learner
