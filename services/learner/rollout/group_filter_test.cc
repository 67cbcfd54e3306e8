#include "services/learner/rollout/group_filter.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace rollcall::learner {
namespace {

void Add(v1::Group& group, std::optional<double> reward, std::optional<double> task) {
  v1::RewardRecord* record = group.add_trajectories()->mutable_reward();
  if (reward) record->set_value(*reward);
  if (task) (*record->mutable_components())["task"] = *task;
}

TEST(HasZeroVariance, JudgesTheComposedRewardOrTheTasksOwnMetric) {
  v1::Group group;
  Add(group, 1.0, 1.0);
  Add(group, 0.9, 1.0);  // a punishment of form
  EXPECT_FALSE(HasZeroVariance(group, ""));
  EXPECT_TRUE(HasZeroVariance(group, "task"));
  Add(group, 0.9, 0.0);
  EXPECT_FALSE(HasZeroVariance(group, "task"));
}

TEST(HasZeroVariance, SamplesWithoutAScoreDoNotCount) {
  v1::Group group;
  Add(group, 1.0, std::nullopt);
  Add(group, std::nullopt, std::nullopt);
  EXPECT_TRUE(HasZeroVariance(group, ""));
  EXPECT_TRUE(HasZeroVariance(group, "task"));
  Add(group, 0.0, std::nullopt);
  EXPECT_FALSE(HasZeroVariance(group, ""));
}

}  // namespace
}  // namespace rollcall::learner
