#include "services/cli/harvest/harvest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/text/parquet_file.h"
#include "services/cli/harvest/sorted_rows.h"

namespace rollcall::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

struct SampleSpec {
  const char* text;
  std::optional<double> reward;
  v1::FinishReason finish = v1::FINISH_REASON_STOP_TOKEN;
};

v1::Group Group(const std::vector<SampleSpec>& samples) {
  v1::Group group;
  group.set_group_id(7);
  group.set_lineage(2);
  group.mutable_prompt()->set_text("q");
  group.mutable_outcome()->mutable_trained();
  group.set_trained_step(3);
  for (const SampleSpec& sample : samples) {
    v1::Trajectory* trajectory = group.add_trajectories();
    trajectory->set_index(static_cast<uint32_t>(group.trajectories_size() - 1));
    trajectory->add_segments()->set_role(v1::SEGMENT_ROLE_PROMPT);
    trajectory->add_segments()->set_role(v1::SEGMENT_ROLE_POLICY);
    trajectory->set_text(sample.text);
    trajectory->set_finish_reason(sample.finish);
    if (sample.reward) trajectory->mutable_reward()->set_value(*sample.reward);
  }
  return group;
}

const v1::Group kGroup = Group({{"b", 0.5}, {"a", 2}, {"c", 0.5}, {"d", -1}});

json Rows(const HarvestOptions& options, const v1::Group& group, HarvestCounts* counts = nullptr) {
  Harvest harvest(options, /*last_lineage=*/2);
  json rows = harvest.Rows(group);
  if (counts != nullptr) *counts = harvest.counts();
  return rows;
}

TEST(Harvest, PairsAreTheBestAgainstTheWorst) {
  HarvestOptions options;
  EXPECT_EQ(Rows(options, kGroup),
            json::parse(R"([{"prompt": "q", "chosen": "a", "rejected": "d", "margin": 3.0,
                             "chosen_reward": 2.0, "rejected_reward": -1.0, "group": 7,
                             "step": 3}])"));
  options.pairs_per_group = 9;  // the second pair is a tie
  EXPECT_EQ(Rows(options, kGroup).size(), 1u);
  EXPECT_EQ(Rows(options, Group({{"a", 1}, {"b", 2}, {"c", 3}, {"d", 4}, {"e", 5}})).size(), 2u);
  options.min_margin = 4;
  HarvestCounts counts;
  EXPECT_EQ(Rows(options, kGroup, &counts).size(), 0u);
  EXPECT_EQ(counts.below, 1u);
  EXPECT_EQ(Rows({}, Group({{"a", 1}, {"b", 1}}), &counts).size(), 0u);
  EXPECT_EQ(counts.ties, 1u);
  EXPECT_EQ(Rows({}, Group({{"a", 1}, {"a", 2}}), &counts).size(), 0u);
  EXPECT_EQ(counts.same_text, 1u);
  EXPECT_EQ(Rows({}, Group({{"a", 1}})).size(), 0u);
}

TEST(Harvest, LabelsAreAboveTheThresholdOrTheMean) {
  HarvestOptions options{.kind = HarvestKind::kKto};
  HarvestCounts counts;
  const json rows = Rows(options, kGroup, &counts);  // the mean is 0.5
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0], json::parse(R"({"prompt": "q", "completion": "a", "label": true,
                                     "reward": 2.0, "group": 7, "step": 3})"));
  EXPECT_EQ(rows[1]["label"], false);
  EXPECT_EQ(counts.ties, 2u);
  EXPECT_EQ(Rows(options, Group({{"a", 0.1}, {"b", 0.1}, {"c", 0.1}}), &counts).size(), 0u);
  EXPECT_EQ(counts.ties, 3u);
  options.threshold = 0.5;
  const json labelled = Rows(options, kGroup);
  ASSERT_EQ(labelled.size(), 4u);
  EXPECT_EQ(labelled[0]["label"], true);
  EXPECT_EQ(labelled[3]["label"], false);
}

TEST(Harvest, SftTakesTheBestOrAllThatAreGoodEnough) {
  HarvestOptions options{.kind = HarvestKind::kSft};
  EXPECT_EQ(Rows(options, kGroup),
            json::parse(R"([{"prompt": "q", "completion": "a", "reward": 2.0, "group": 7,
                             "step": 3}])"));
  EXPECT_EQ(Rows(options, Group({{"x", 1}, {"y", 1}}))[0]["completion"], "x");
  options.min_reward = 0.5;
  HarvestCounts counts;
  EXPECT_EQ(Rows(options, Group({{"b", 1}, {"b", 2}, {"c", 0.5}, {"d", 0.4}}), &counts).size(), 2u);
  EXPECT_EQ(counts.same_text, 1u);
  EXPECT_EQ(counts.below, 1u);
}

TEST(Harvest, ChatsStayMessages) {
  v1::Group group = kGroup;
  v1::ChatMessage* message = group.mutable_prompt()->add_messages();
  message->set_role("user");
  message->set_content("hello");
  const json row = Rows({}, group)[0];
  EXPECT_EQ(row["prompt"], json::parse(R"([{"role": "user", "content": "hello"}])"));
  EXPECT_EQ(row["chosen"], json::parse(R"([{"role": "assistant", "content": "a"}])"));
}

TEST(Harvest, WhatIsLeftOutIsCounted) {
  Harvest harvest({}, /*last_lineage=*/2);
  v1::Group dropped = kGroup;
  dropped.mutable_outcome()->mutable_dropped();
  EXPECT_TRUE(harvest.Rows(dropped).empty());
  v1::Group abandoned = kGroup;
  abandoned.mutable_outcome()->mutable_finished();
  abandoned.set_lineage(1);
  EXPECT_TRUE(harvest.Rows(abandoned).empty());
  abandoned.set_lineage(2);  // finished by the newest start
  EXPECT_EQ(harvest.Rows(abandoned).size(), 1u);
  v1::Group trained_before = kGroup;  // by a step that was not lost
  trained_before.set_lineage(1);
  EXPECT_EQ(harvest.Rows(trained_before).size(), 1u);

  v1::Group turns = Group({{"tool", 9}});
  turns.mutable_trajectories(0)->add_segments()->set_role(v1::SEGMENT_ROLE_ENVIRONMENT);
  EXPECT_TRUE(harvest.Rows(turns).empty());
  EXPECT_TRUE(harvest
                  .Rows(Group({{"a", std::nullopt},
                               {"", 4},
                               {"b", 5, v1::FINISH_REASON_LENGTH},
                               {"c", 5, v1::FINISH_REASON_CONTEXT}}))
                  .empty());
  const HarvestCounts& counts = harvest.counts();
  EXPECT_EQ(counts.groups, 6u);
  EXPECT_EQ(counts.groups_used, 2u);
  EXPECT_EQ(counts.dropped, 1u);
  EXPECT_EQ(counts.abandoned, 1u);
  EXPECT_EQ(counts.multi_turn, 1u);
  EXPECT_EQ(counts.unscored, 1u);
  EXPECT_EQ(counts.empty, 1u);
  EXPECT_EQ(counts.truncated, 2u);
  EXPECT_EQ(harvest.Summary(),
            "2 rows from 2 of 6 groups; left out: 1 groups that were dropped, 1 groups of a start "
            "whose steps were lost, 1 samples without a reward, 2 samples cut off by a length "
            "limit, 1 samples of several turns, 1 samples without text");
  EXPECT_EQ(Harvest({}, 1).Summary(), "0 rows from 0 of 0 groups; left out: nothing");
  EXPECT_EQ(
      Rows({.keep_truncated = true}, Group({{"a", 1, v1::FINISH_REASON_LENGTH}, {"b", 2}})).size(),
      1u);
}

TEST(SortedRows, LinesAreWrittenByTheirKeys) {
  const fs::path folder = fs::path(::testing::TempDir()) / "rollcall_sorted_rows";
  fs::remove_all(folder);
  fs::create_directories(folder);
  for (const char* name : {"out.jsonl", "out.parquet"}) {
    const std::string path = (folder / name).string();
    auto rows = SortedRows::Open(path);
    ASSERT_TRUE(rows.ok()) << rows.status();
    for (const auto& [key, line] : std::vector<std::pair<uint64_t, std::string>>{
             {5, "{\"a\":1}"}, {2, "{\"a\":2}"}, {5, "{\"a\":3}"}, {0, "{\"a\":4}"}}) {
      ASSERT_TRUE(rows->Add(key, line).ok());
    }
    EXPECT_FALSE(fs::exists(path));
    const absl::Status written = rows->Write();
    ASSERT_TRUE(written.ok()) << written;
    std::string text;
    if (path.ends_with(".parquet")) {
      const auto file = text::ParquetFile::Open(path);
      ASSERT_TRUE(file.ok()) << file.status();
      text = (*file)->ReadRows(0, 0, 4).value_or("");
    } else {
      std::ifstream in(path);
      text.assign(std::istreambuf_iterator<char>(in), {});
    }
    EXPECT_EQ(text, "{\"a\":4}\n{\"a\":2}\n{\"a\":1}\n{\"a\":3}\n");
  }
  // Nothing else is left behind.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 2);
  EXPECT_FALSE(SortedRows::Open("/nowhere/out.jsonl").ok());
  fs::remove_all(folder);
}

}  // namespace
}  // namespace rollcall::cli
