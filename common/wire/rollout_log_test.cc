#include "common/wire/rollout_log.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rollcall::wire {
namespace {

using ::testing::ElementsAre;

class RolloutLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/rollout_log_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static v1::LineageStart Start(uint64_t lineage, uint64_t next_group_id) {
    v1::LineageStart start;
    start.set_lineage(lineage);
    start.set_next_group_id(next_group_id);
    start.set_content_hash(std::string(32, 'h'));
    return start;
  }

  static v1::RolloutRecord Finished(uint64_t id, uint64_t lineage, const std::string& text) {
    v1::RolloutRecord record;
    v1::Group* group = record.mutable_group();
    group->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
    group->set_group_id(id);
    group->set_lineage(lineage);
    group->add_trajectories()->set_text(text);
    group->mutable_outcome()->mutable_finished();
    return record;
  }

  static v1::RolloutRecord Trained(uint64_t id, uint64_t step) {
    v1::RolloutRecord record;
    record.mutable_update()->set_purpose(v1::RANDOM_PURPOSE_ROLLOUT);
    record.mutable_update()->set_group_id(id);
    record.mutable_update()->set_trained_step(step);
    record.mutable_update()->mutable_outcome()->mutable_trained();
    return record;
  }

  void Write(const v1::LineageStart& start, const std::vector<v1::RolloutRecord>& records) {
    auto writer = RolloutLogWriter::Open(folder_, start);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const v1::RolloutRecord& record : records) ASSERT_TRUE((*writer)->Append(record).ok());
    ASSERT_TRUE((*writer)->Sync().ok());
  }

  // "id:text:outcome" of every group, in the order of ForEach.
  std::vector<std::string> Replay() {
    auto index = RolloutIndex::Read(folder_);
    EXPECT_TRUE(index.ok()) << index.status();
    std::vector<std::string> lines;
    if (!index.ok()) return lines;
    const auto status = index->ForEach(
        [](const auto&, const auto&) { return true; },
        [&](v1::Group group) {
          std::string line = std::to_string(group.group_id()) + ":" + group.trajectories(0).text();
          if (group.outcome().has_trained())
            line += ":trained@" + std::to_string(group.trained_step());
          if (group.outcome().has_finished()) line += ":finished";
          lines.push_back(line);
          return absl::OkStatus();
        });
    EXPECT_TRUE(status.ok()) << status;
    return lines;
  }

  std::string folder_;
};

TEST_F(RolloutLogTest, AMissingFolderIsEmpty) { EXPECT_THAT(Replay(), ElementsAre()); }

TEST_F(RolloutLogTest, AnUpdateReplacesTheOutcome) {
  Write(Start(1, 0), {Finished(0, 1, "a"), Finished(1, 1, "b"), Trained(0, 1)});
  EXPECT_THAT(Replay(), ElementsAre("0:a:trained@1", "1:b:finished"));
}

TEST_F(RolloutLogTest, ALaterLineageVoidsWhatWasTrainedAfterItsCheckpoint) {
  Write(Start(1, 0), {Finished(0, 1, "a"), Finished(1, 1, "b"), Finished(2, 1, "c"), Trained(0, 1),
                      Trained(1, 2)});
  Write(Start(2, 1), {});
  EXPECT_THAT(Replay(), ElementsAre("0:a:trained@1", "1:b:finished", "2:c:finished"));
}

TEST_F(RolloutLogTest, ARecordOfALaterLineageReplacesAnEarlierOne) {
  Write(Start(1, 0), {Finished(0, 1, "old"), Finished(1, 1, "kept")});
  Write(Start(2, 0), {Finished(0, 2, "new"), Trained(0, 1), Trained(1, 1)});
  EXPECT_THAT(Replay(), ElementsAre("1:kept:trained@1", "0:new:trained@1"));
}

TEST_F(RolloutLogTest, ATornTailIsPassedOver) {
  Write(Start(1, 0), {Finished(0, 1, "a"), Finished(1, 1, "b")});
  const std::string path = folder_ + "/lineage-000001.rec";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 3);
  EXPECT_THAT(Replay(), ElementsAre("0:a:finished"));
}

TEST_F(RolloutLogTest, ARecordThatIsNoRolloutIsReported) {
  Write(Start(1, 0), {});
  {
    auto writer = RecordWriter::Open(folder_ + "/lineage-000002.rec");
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append("\xff\xff\xff no message").ok());
  }
  EXPECT_EQ(RolloutIndex::Read(folder_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(RolloutLogTest, EvaluationGroupsAreNotVoided) {
  v1::RolloutRecord evaluation = Finished(9, 1, "e");
  evaluation.mutable_group()->set_purpose(v1::RANDOM_PURPOSE_EVALUATION);
  evaluation.mutable_group()->set_trained_step(7);
  evaluation.mutable_group()->mutable_outcome()->mutable_trained();
  Write(Start(1, 0), {evaluation});
  Write(Start(2, 0), {});
  EXPECT_THAT(Replay(), ElementsAre("9:e:trained@7"));
}

}  // namespace
}  // namespace rollcall::wire
