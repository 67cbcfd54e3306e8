#include "services/learner/rollout/batch_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;

v1::PolicyVersion Version(uint64_t step) {
  v1::PolicyVersion version;
  version.set_step(step);
  version.set_manifest_hash("hash of " + std::to_string(step));
  return version;
}

// Prompt of two tokens, then `tokens` sampled ones under `step`.
void AddTrajectory(v1::Group& group, uint32_t index, uint32_t tokens, std::optional<double> reward,
                   uint64_t step = 3) {
  v1::Trajectory* trajectory = group.add_trajectories();
  trajectory->set_index(index);
  trajectory->set_finish_reason(tokens > 3 ? v1::FINISH_REASON_LENGTH
                                           : v1::FINISH_REASON_STOP_TOKEN);
  if (reward) trajectory->mutable_reward()->set_value(*reward);
  v1::Segment* prompt = trajectory->add_segments();
  prompt->set_role(v1::SEGMENT_ROLE_PROMPT);
  prompt->add_token_ids(1);
  prompt->add_token_ids(2);
  v1::Segment* sampled = trajectory->add_segments();
  sampled->set_role(v1::SEGMENT_ROLE_POLICY);
  for (uint32_t t = 0; t < tokens; ++t) {
    sampled->add_token_ids(10 + t);
    sampled->add_logprobs(-0.5f);
    sampled->add_reference_logprobs(-0.75f);
  }
  v1::VersionSpan* span = sampled->add_version_spans();
  span->set_end(tokens);
  *span->mutable_version() = Version(step);
}

v1::Group MakeGroup(uint64_t id, const std::vector<std::optional<double>>& rewards) {
  v1::Group group;
  group.set_group_id(id);
  for (uint32_t i = 0; i < rewards.size(); ++i) AddTrajectory(group, i, i + 2, rewards[i]);
  return group;
}

TEST(BatchBuilderTest, ColumnsLineUpWithTheTokens) {
  v1::Group group = MakeGroup(4, {1.0});
  const auto batch = BuildBatch({group}, Version(3));
  ASSERT_TRUE(batch.ok()) << batch.status();
  const TrainSequence& sequence = batch->sequences[0];
  EXPECT_THAT(sequence.token_ids, ElementsAre(1, 2, 10, 11));
  EXPECT_THAT(sequence.loss_mask, ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(sequence.behavior_logprobs, ElementsAre(0, 0, -0.5f, -0.5f));
  EXPECT_THAT(sequence.reference_logprobs, ElementsAre(0, 0, -0.75f, -0.75f));
  EXPECT_EQ(sequence.reward, 1.0);
  EXPECT_TRUE(sequence.on_policy);
}

TEST(BatchBuilderTest, TheOrderOfArrivalNeverShows) {
  v1::Group backwards;
  backwards.set_group_id(2);
  AddTrajectory(backwards, 1, 3, 0.0);
  AddTrajectory(backwards, 0, 2, 0.0);
  const auto batch = BuildBatch({MakeGroup(5, {1, 0}), backwards}, Version(3));
  ASSERT_TRUE(batch.ok());
  EXPECT_THAT(batch->group_ids, ElementsAre(2, 5));
  EXPECT_EQ(batch->sequences[0].sample_index, 0u);
  EXPECT_EQ(batch->sequences[1].token_ids.size(), 5u);
  EXPECT_EQ(batch->sequences[2].group_id, 5u);
}

TEST(BatchBuilderTest, OnlyTheTrainedVersionIsOnPolicy) {
  v1::Group group = MakeGroup(1, {1});
  AddTrajectory(group, 1, 2, 0.0, 2);
  const auto batch = BuildBatch({group}, Version(3));
  ASSERT_TRUE(batch.ok());
  EXPECT_TRUE(batch->sequences[0].on_policy);
  EXPECT_FALSE(batch->sequences[1].on_policy);
  EXPECT_EQ(batch->metrics.at("rollout/staleness"), 0.5);
}

TEST(BatchBuilderTest, ASampleOverMixedKeysIsNotOnPolicy) {
  v1::Group group = MakeGroup(1, {1, 0});
  group.mutable_trajectories(1)->mutable_segments(1)->mutable_version_spans(0)->set_mixed_kv(true);
  const auto batch = BuildBatch({group}, Version(3));
  ASSERT_TRUE(batch.ok());
  EXPECT_TRUE(batch->sequences[0].on_policy);
  EXPECT_FALSE(batch->sequences[1].on_policy);
  EXPECT_EQ(batch->metrics.at("rollout/mixed_kv"), 0.5);
}

TEST(BatchBuilderTest, ASampleWithoutScoreStaysWithoutReward) {
  const auto batch = BuildBatch({MakeGroup(1, {1, std::nullopt, 0})}, Version(3));
  ASSERT_TRUE(batch.ok());
  EXPECT_FALSE(batch->sequences[1].reward.has_value());
  EXPECT_EQ(batch->metrics.at("rollout/unscored_samples"), 1);
  EXPECT_EQ(batch->metrics.at("reward/mean"), 0.5);
}

TEST(BatchBuilderTest, RefusesBrokenRecords) {
  EXPECT_FALSE(BuildBatch({MakeGroup(1, {1}), MakeGroup(1, {1})}, Version(3)).ok());
  v1::Group group = MakeGroup(1, {1});
  group.mutable_trajectories(0)->mutable_segments(1)->mutable_logprobs()->RemoveLast();
  EXPECT_EQ(BuildBatch({group}, Version(3)).status().code(), absl::StatusCode::kInternal);
}

TEST(RolloutMetricsTest, HandWorked) {
  std::vector<v1::Group> groups = {MakeGroup(0, {1, 0, 0.5}), MakeGroup(1, {2, 2, std::nullopt})};
  (*groups[0].mutable_trajectories(0)->mutable_reward()->mutable_components())["format"] = 1;
  (*groups[0].mutable_trajectories(1)->mutable_reward()->mutable_components())["format"] = 0;
  const auto metrics = RolloutMetrics(groups, "x/");
  EXPECT_DOUBLE_EQ(metrics.at("x/reward/mean"), 1.1);  // (1 + 0 + 0.5 + 2 + 2) / 5
  EXPECT_DOUBLE_EQ(metrics.at("x/reward/std"), 0.8);   // sqrt(3.2 / 5)
  EXPECT_DOUBLE_EQ(metrics.at("x/reward/format"), 0.5);
  EXPECT_DOUBLE_EQ(metrics.at("x/reward/zero_variance_groups"), 0.5);
  EXPECT_DOUBLE_EQ(metrics.at("x/length/mean"), 3);
  EXPECT_DOUBLE_EQ(metrics.at("x/length/max"), 4);
  EXPECT_DOUBLE_EQ(metrics.at("x/length/truncated"), 2.0 / 6);
  EXPECT_DOUBLE_EQ(metrics.at("x/finish/stop_token"), 4.0 / 6);
}

TEST(ReferenceKlTest, IsAMeanOverTokens) {
  std::vector<v1::Group> groups = {MakeGroup(0, {1, 0})};  // 2 and 3 tokens, each -0.5 to -0.75
  EXPECT_DOUBLE_EQ(ReferenceKl(groups).value(), 0.25);
  groups[0].mutable_trajectories(0)->mutable_segments(1)->set_reference_logprobs(0, -1.75f);
  EXPECT_DOUBLE_EQ(ReferenceKl(groups).value(), 0.25 + 1.0 / 5);
  for (v1::Trajectory& trajectory : *groups[0].mutable_trajectories()) {
    trajectory.mutable_segments(1)->clear_reference_logprobs();
  }
  EXPECT_EQ(ReferenceKl(groups), std::nullopt);
}

}  // namespace
}  // namespace rollcall::learner
