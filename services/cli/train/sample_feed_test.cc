#include "services/cli/train/sample_feed.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "common/wire/rollout_log.h"

namespace rollcall::cli {
namespace {

v1::RolloutRecord GroupRecord(uint64_t id, v1::RandomPurpose purpose) {
  v1::RolloutRecord record;
  record.mutable_group()->set_group_id(id);
  record.mutable_group()->set_purpose(purpose);
  return record;
}

TEST(SampleFeed, FollowsTheNewestFileWhileItGrows) {
  const std::string folder = testing::TempDir() + "sample_feed";
  std::filesystem::remove_all(folder);
  SampleFeed feed(folder);
  EXPECT_FALSE(feed.Newest().has_value());

  v1::LineageStart start;
  start.set_run_id("run");
  start.set_lineage(1);
  start.set_content_hash(std::string(32, 'h'));
  auto old = wire::RolloutLogWriter::Open(folder, start);
  ASSERT_TRUE(old.ok()) << old.status();
  ASSERT_TRUE((*old)->Append(GroupRecord(1, v1::RANDOM_PURPOSE_ROLLOUT)).ok());
  start.set_lineage(2);
  auto writer = wire::RolloutLogWriter::Open(folder, start);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_FALSE(feed.Newest().has_value());

  for (uint64_t id : {7, 8})
    ASSERT_TRUE((*writer)->Append(GroupRecord(id, v1::RANDOM_PURPOSE_ROLLOUT)).ok());
  ASSERT_TRUE((*writer)->Append(GroupRecord(9, v1::RANDOM_PURPOSE_EVALUATION)).ok());
  const std::optional<v1::Group> newest = feed.Newest();
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(newest->group_id(), 8u);
  EXPECT_FALSE(feed.Newest().has_value());
  ASSERT_TRUE((*writer)->Append(GroupRecord(10, v1::RANDOM_PURPOSE_ROLLOUT)).ok());
  EXPECT_EQ(feed.Newest()->group_id(), 10u);
}

TEST(FormatSample, ShowsTheFirstScoredSampleOnOneLine) {
  v1::Group group;
  group.mutable_prompt()->set_text("1+2=");
  group.add_trajectories()->set_text("no reward");
  EXPECT_EQ(FormatSample(group, 10), "");
  v1::Trajectory& scored = *group.add_trajectories();
  scored.set_text("3\nääääää");
  scored.mutable_reward()->set_value(0.5);
  EXPECT_EQ(FormatSample(group, 100), "reward 0.500  1+2= → 3\\nääääää");
  // Cut between characters: byte 5 lies inside the second ä.
  EXPECT_EQ(FormatSample(group, 5), "reward 0.500  1+2= → 3\\nä…");
}

}  // namespace
}  // namespace rollcall::cli
