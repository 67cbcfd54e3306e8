#include "services/reward/model/decoder_scorer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/safetensors.h"
#include "common/model/reward_position.h"

namespace rollcall::reward {
namespace {

std::string GoldenModels() {
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  return absl::StrCat(data == nullptr ? "" : data, "/golden/models");
}

std::shared_ptr<ModelJob> Job(std::vector<std::vector<uint32_t>> sequences) {
  auto job = std::make_shared<ModelJob>();
  for (auto& ids : sequences) job->sequences.push_back({std::move(ids)});
  return job;
}

ModelBatch All(const std::shared_ptr<ModelJob>& job) {
  ModelBatch batch;
  for (size_t i = 0; i < job->sequences.size(); ++i) batch.items.push_back({job, i});
  return batch;
}

// Reward models of two families with the rewards that transformers gives.
class GoldenRewardTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(GoldenModels(), "/", GetParam());
    if (!std::filesystem::exists(folder_ + "/config.json"))
      GTEST_SKIP() << "nothing at " << folder_;
    auto scorer = LoadDecoderScorer({.path = folder_});
    ASSERT_TRUE(scorer.ok()) << scorer.status();
    scorer_ = *std::move(scorer);
    auto expected = checkpoint::SafetensorsFile::Open(folder_ + ".expected.safetensors");
    ASSERT_TRUE(expected.ok()) << expected.status();
    expected_ = *std::move(expected);
  }

  template <typename T>
  std::vector<T> Read(const std::string& name) const {
    const checkpoint::TensorView* view = expected_->Find(name);
    if (view == nullptr) return {};
    std::vector<T> values(view->bytes.size() / sizeof(T));
    std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
    return values;
  }
  // The golden sequences, in order.
  std::vector<std::vector<uint32_t>> Sequences() const {
    std::vector<std::vector<uint32_t>> sequences;
    while (true) {
      const auto ids = Read<int64_t>(absl::StrCat("seq", sequences.size(), ".input_ids"));
      if (ids.empty()) return sequences;
      sequences.emplace_back(ids.begin(), ids.end());
    }
  }

  std::string folder_;
  std::unique_ptr<ModelScorer> scorer_;
  std::shared_ptr<const checkpoint::SafetensorsFile> expected_;
};

TEST_P(GoldenRewardTest, EqualsTransformersAndDoesNotDependOnTheBatch) {
  const auto sequences = Sequences();
  ASSERT_GE(sequences.size(), 3u);
  const auto together = scorer_->Score(All(Job(sequences)));
  ASSERT_TRUE(together.ok()) << together.status();
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_NEAR((*together)[i], Read<float>(absl::StrCat("seq", i, ".reward"))[0], 1e-4);
    const auto alone = scorer_->Score(All(Job({sequences[i]})));
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ((*alone)[0], (*together)[i]);
  }
}

TEST_P(GoldenRewardTest, PaddingBehindTheEndChangesNothing) {
  std::vector<uint32_t> ids = Sequences()[0];
  const auto bare = scorer_->Score(All(Job({ids})));
  ids.insert(ids.end(), 3, 0);  // pad_token_id of both models
  const auto padded = scorer_->Score(All(Job({ids})));
  ASSERT_TRUE(bare.ok() && padded.ok());
  EXPECT_EQ((*bare)[0], (*padded)[0]);
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenRewardTest,
                         ::testing::Values("reward_llama", "reward_qwen2"));

TEST(DecoderScorerTest, ALanguageModelIsNoRewardModel) {
  const std::string folder = GoldenModels() + "/llama_tied";
  if (!std::filesystem::exists(folder + "/config.json")) GTEST_SKIP() << "nothing at " << folder;
  const auto scorer = LoadDecoderScorer({.path = folder});
  EXPECT_TRUE(absl::IsInvalidArgument(scorer.status())) << scorer.status();
  EXPECT_NE(std::string(scorer.status().message())
                .find("config.json: architectures: expected a "
                      "reward model"),
            std::string::npos)
      << scorer.status();
}

TEST(RewardPositionTest, IsTheLastTokenThatIsNoPadding) {
  const std::vector<uint32_t> ids = {7, 0, 3, 0, 0};
  EXPECT_EQ(model::RewardPosition(ids, 0), 2u);
  EXPECT_EQ(model::RewardPosition(ids, 9), 4u);
  EXPECT_EQ(model::RewardPosition(ids, std::nullopt), 4u);
  EXPECT_EQ(model::RewardPosition(std::vector<uint32_t>{0, 0}, 0), 0u);
}

}  // namespace
}  // namespace rollcall::reward
