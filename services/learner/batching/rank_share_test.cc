#include "services/learner/batching/rank_share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "services/learner/batching/batch_bytes.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(ShareOfRank, DividesTokensEvenlyAndEverySequenceOnce) {
  const std::vector<size_t> lengths = {7, 1, 5, 5, 2, 9, 1, 1};
  EXPECT_THAT(ShareOfRank(lengths, 0, 1), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  for (const int ranks : {2, 3, 5}) {
    std::vector<size_t> all, tokens;
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<size_t> own = ShareOfRank(lengths, rank, ranks);
      EXPECT_TRUE(std::is_sorted(own.begin(), own.end()));
      all.insert(all.end(), own.begin(), own.end());
      size_t sum = 0;
      for (const size_t index : own) sum += lengths[index];
      tokens.push_back(sum);
    }
    std::sort(all.begin(), all.end());
    EXPECT_THAT(all, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
    EXPECT_LE(*std::max_element(tokens.begin(), tokens.end()) -
                  *std::min_element(tokens.begin(), tokens.end()),
              9u);
  }
}

TEST(ShareOfRank, LeavesRanksWithoutWorkEmpty) {
  EXPECT_THAT(ShareOfRank(std::vector<size_t>{4}, 0, 3), ElementsAre(0));
  EXPECT_THAT(ShareOfRank(std::vector<size_t>{4}, 2, 3), IsEmpty());
  EXPECT_THAT(ShareOfRank({}, 1, 2), IsEmpty());
}

TrainBatch FullBatch() {
  TrainSequence sequence;
  sequence.group_id = 1ull << 40;
  sequence.sample_index = 3;
  sequence.token_ids = {1, 2, 3};
  sequence.loss_mask = {0, 1, 1};
  sequence.behavior_logprobs = {0, -0.1f, -0.2f};
  sequence.reference_logprobs = {0, -0.3f, -0.4f};
  sequence.reward = -0.0;
  sequence.greedy_reward = 0.25;
  sequence.greedy_tokens = 7;
  sequence.greedy_truncated = true;
  sequence.on_policy = true;
  sequence.margin = 1.5;
  sequence.truncated = true;
  TrainBatch batch;
  batch.sequences = {sequence, TrainSequence()};
  batch.group_ids = {0, 1ull << 40};
  batch.metrics = {{"reward/mean", 0.1}, {"length/mean", 3}};
  return batch;
}

TEST(BatchBytes, BringEveryFieldAcross) {
  const TrainBatch batch = FullBatch();
  const std::string bytes = EncodeBatch(batch);
  const auto decoded = DecodeBatch(bytes);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(EncodeBatch(*decoded), bytes);
  const TrainSequence& sequence = decoded->sequences[0];
  EXPECT_EQ(sequence.group_id, 1ull << 40);
  EXPECT_EQ(sequence.sample_index, 3u);
  EXPECT_THAT(sequence.token_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(sequence.loss_mask, ElementsAre(0, 1, 1));
  EXPECT_THAT(sequence.reference_logprobs, ElementsAre(0, -0.3f, -0.4f));
  EXPECT_TRUE(std::signbit(*sequence.reward));
  EXPECT_EQ(sequence.greedy_tokens, 7u);
  EXPECT_TRUE(sequence.greedy_truncated && sequence.on_policy && sequence.truncated);
  EXPECT_EQ(sequence.margin, 1.5);
  EXPECT_FALSE(decoded->sequences[1].reward.has_value());
  EXPECT_THAT(decoded->group_ids, ElementsAre(0, 1ull << 40));
  EXPECT_EQ(decoded->metrics, batch.metrics);
}

TEST(BatchBytes, RefuseWhatIsCutOrTooLong) {
  const std::string bytes = EncodeBatch(FullBatch());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(DecodeBatch(bytes.substr(0, size)).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
  EXPECT_FALSE(DecodeBatch(bytes + "x").ok());
}

}  // namespace
}  // namespace rollcall::learner
