#include "services/learner/algorithms/advantage.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

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

}  // namespace
}  // namespace rollcall::learner
