#include "services/reference/engine/decoder_scorer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

namespace rollcall::reference {
namespace {

// stories260k: a real checkpoint of 260 thousand parameters.
class DecoderScorerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("ROLLCALL_TEST_DATA");
    const std::string path = std::string(data == nullptr ? "" : data) + "/stories260k";
    if (!std::filesystem::exists(path + "/config.json"))
      GTEST_SKIP() << "no checkpoint at " << path;
    auto scorer = LoadDecoderScorer({.path = path});
    ASSERT_TRUE(scorer.ok()) << scorer.status();
    scorer_ = *std::move(scorer);
  }

  static ScoreJobPtr Job(std::vector<SequenceToScore> sequences) {
    auto job = std::make_shared<ScoreJob>();
    job->sequences = std::move(sequences);
    job->mode.with_entropy = true;
    return job;
  }

  static Batch All(const ScoreJobPtr& job) {
    Batch batch;
    for (size_t i = 0; i < job->sequences.size(); ++i) batch.items.push_back({job, i});
    return batch;
  }

  std::unique_ptr<Scorer> scorer_;
};

TEST_F(DecoderScorerTest, DescribesTheModel) {
  EXPECT_EQ(scorer_->description().vocab_size(), 512u);
  EXPECT_EQ(scorer_->description().manifest_hash().size(), 32u);
  EXPECT_EQ(scorer_->description().architecture_hash().size(), 32u);
}

// The claim that makes the reference's answer independent of who else asks: equal bits alone, in
// company and from another first scored token.
TEST_F(DecoderScorerTest, ASequencesBitsDoNotDependOnTheBatch) {
  const std::vector<uint32_t> a = {1, 403, 407, 261, 378};
  const std::vector<uint32_t> b = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const auto alone = scorer_->Score(All(Job({{a, 1}})));
  const auto together = scorer_->Score(All(Job({{b, 2}, {a, 1}, {b, 1}, {a, 3}})));
  ASSERT_TRUE(alone.ok() && together.ok()) << alone.status() << together.status();
  EXPECT_EQ((*alone)[0].logprobs, (*together)[1].logprobs);
  EXPECT_EQ((*alone)[0].entropies, (*together)[1].entropies);
  ASSERT_EQ((*together)[3].logprobs.size(), 2u);
  EXPECT_EQ((*together)[3].logprobs[0], (*alone)[0].logprobs[2]);
  for (const float logprob : (*together)[0].logprobs) {
    EXPECT_TRUE(std::isfinite(logprob) && logprob <= 0) << logprob;
  }
}

TEST(DecoderScorerErrorTest, AMissingFolderIsNamed) {
  const auto scorer = LoadDecoderScorer({.path = "/nowhere/model"});
  EXPECT_TRUE(absl::IsNotFound(scorer.status())) << scorer.status();
  EXPECT_NE(std::string(scorer.status().message()).find("/nowhere/model"), std::string::npos);
}

}  // namespace
}  // namespace rollcall::reference
