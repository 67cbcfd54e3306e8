#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "services/learner/batching/batch.h"
#include "services/learner/batching/mini_batch.h"
#include "services/learner/batching/packed_batch.h"
#include "services/learner/batching/packing.h"
#include "services/learner/batching/pair_selection.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TrainSequence Sequence(uint64_t group, uint32_t sample, std::vector<uint32_t> tokens,
                       std::vector<uint8_t> mask) {
  TrainSequence sequence;
  sequence.group_id = group;
  sequence.sample_index = sample;
  sequence.loss_mask = std::move(mask);
  sequence.behavior_logprobs.assign(tokens.size(), -0.5f);
  sequence.token_ids = std::move(tokens);
  sequence.reward = 1.0;
  return sequence;
}

TrainBatch TwoGroups() {
  TrainBatch batch;
  batch.group_ids = {3, 8};
  batch.sequences = {Sequence(3, 0, {1, 2, 3}, {0, 0, 1}), Sequence(3, 1, {1, 2}, {0, 1}),
                     Sequence(8, 0, {4, 5, 6, 7}, {0, 1, 0, 1}), Sequence(8, 2, {4}, {0})};
  return batch;
}

TEST(PackByTokens, FillsMicroBatchesLongestFirst) {
  const std::vector<size_t> lengths = {3, 5, 2, 4, 6};
  // 6+4, 5+3+2 within 10.
  EXPECT_THAT(PackByTokens(lengths, 10), ElementsAre(ElementsAre(0, 1, 2), ElementsAre(3, 4)));
}

TEST(PackByTokens, SequenceBeyondTheBudgetIsAlone) {
  const std::vector<size_t> lengths = {2, 9, 2};
  EXPECT_THAT(PackByTokens(lengths, 4), ElementsAre(ElementsAre(0, 2), ElementsAre(1)));
  EXPECT_THAT(PackByTokens({}, 4), IsEmpty());
}

TEST(PackByTokens, EverySequenceOnceWithinTheBudget) {
  std::vector<size_t> lengths;
  for (size_t i = 0; i < 200; ++i) lengths.push_back(1 + (i * 37) % 61);
  const auto micro_batches = PackByTokens(lengths, 64);
  std::set<size_t> seen;
  size_t total = 0;
  for (const auto& micro_batch : micro_batches) {
    size_t tokens = 0;
    for (const size_t index : micro_batch) {
      EXPECT_TRUE(seen.insert(index).second);
      tokens += lengths[index];
    }
    EXPECT_LE(tokens, 64u);
    total += tokens;
  }
  EXPECT_EQ(seen.size(), lengths.size());
  EXPECT_LE(micro_batches.size(), 11 * (total + 63) / 64 / 9 + 1);
}

TEST(SplitIntoMiniBatches, KeepsGroupsWholeAndLeavesOutWhatHasNoLoss) {
  EXPECT_THAT(SplitIntoMiniBatches(TwoGroups(), 2), ElementsAre(ElementsAre(0, 1), ElementsAre(2)));
  EXPECT_THAT(SplitIntoMiniBatches(TwoGroups(), 1), ElementsAre(ElementsAre(0, 1, 2)));
  EXPECT_THAT(SplitIntoMiniBatches(TwoGroups(), 9), ElementsAre(ElementsAre(0, 1), ElementsAre(2)));
  TrainBatch unscored = TwoGroups();
  unscored.sequences[0].reward.reset();
  EXPECT_THAT(SplitIntoMiniBatches(unscored, 1), ElementsAre(ElementsAre(1, 2)));
}

TEST(SplitIntoMiniBatches, SpreadsGroupsEvenly) {
  TrainBatch batch;
  for (uint64_t group = 0; group < 7; ++group) {
    batch.group_ids.push_back(group);
    batch.sequences.push_back(Sequence(group, 0, {1, 2}, {0, 1}));
    batch.sequences.push_back(Sequence(group, 1, {1, 2}, {0, 1}));
  }
  std::vector<size_t> sizes;
  for (const auto& mini_batch : SplitIntoMiniBatches(batch, 3)) sizes.push_back(mini_batch.size());
  EXPECT_THAT(sizes, ElementsAre(6, 4, 4));
}

TEST(Pack, LaysSequencesEndToEnd) {
  const std::vector<size_t> indices = {2, 0};
  const PackedBatch packed = Pack(TwoGroups(), indices);
  EXPECT_THAT(packed.sequences, ElementsAre(2, 0));
  EXPECT_THAT(packed.token_ids, ElementsAre(4, 5, 6, 7, 1, 2, 3));
  EXPECT_THAT(packed.positions, ElementsAre(0, 1, 2, 3, 0, 1, 2));
  EXPECT_THAT(packed.cu_seqlens, ElementsAre(0, 4, 7));
  EXPECT_THAT(packed.rows, ElementsAre(0, 2, 5));
  EXPECT_THAT(packed.targets, ElementsAre(5, 7, 3));
  EXPECT_THAT(packed.sequence_of, ElementsAre(0, 0, 1));
  EXPECT_THAT(packed.token_counts, ElementsAre(2, 1));
  EXPECT_EQ(packed.behavior_logprobs.size(), 3u);
  EXPECT_THAT(packed.reference_logprobs, IsEmpty());
}

TEST(OrderBatch, ArrivalOrderDoesNotShow) {
  TrainBatch batch = TwoGroups();
  std::reverse(batch.sequences.begin(), batch.sequences.end());
  std::reverse(batch.group_ids.begin(), batch.group_ids.end());
  EXPECT_FALSE(CheckBatch(batch, {.vocab_size = 10, .rollouts = true}).ok());
  OrderBatch(batch);
  EXPECT_TRUE(CheckBatch(batch, {.vocab_size = 10, .rollouts = true}).ok());
  EXPECT_THAT(batch.group_ids, ElementsAre(3, 8));
  EXPECT_EQ(batch.sequences[3].sample_index, 2u);
}

TEST(CheckBatch, NamesTheFirstViolation) {
  const BatchRequirements rollouts = {.vocab_size = 10, .rollouts = true};
  const auto message = [](const TrainBatch& batch, const BatchRequirements& requirements) {
    const absl::Status status = CheckBatch(batch, requirements);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_TRUE(CheckBatch(TwoGroups(), rollouts).ok());
  EXPECT_THAT(message(TwoGroups(), {.vocab_size = 7, .rollouts = true}),
              HasSubstr("group 8 sample 0: token_ids[3] must be below 7, got 7"));
  EXPECT_THAT(
      message(TwoGroups(), {.vocab_size = 10, .rollouts = true, .reference_logprobs = true}),
      HasSubstr("group 3 sample 0: reference_logprobs has 0 entries for 3 tokens"));
  EXPECT_THAT(message(TwoGroups(), {.vocab_size = 10}), HasSubstr("no group_ids"));
  EXPECT_THAT(message({}, rollouts), HasSubstr("no sequences"));

  TrainBatch batch = TwoGroups();
  batch.sequences[1].behavior_logprobs[1] = 0.25f;
  EXPECT_THAT(message(batch, rollouts),
              HasSubstr("group 3 sample 1: behavior_logprobs[1] must be finite and at most 0"));
  batch = TwoGroups();
  batch.sequences[0].reward = std::nan("");
  EXPECT_THAT(message(batch, rollouts), HasSubstr("reward must be finite"));
  batch = TwoGroups();
  batch.sequences[0].loss_mask[0] = 1;
  EXPECT_THAT(message(batch, rollouts), HasSubstr("nothing predicts the first token"));
  batch = TwoGroups();
  batch.sequences[1].sample_index = 0;
  EXPECT_THAT(message(batch, rollouts), HasSubstr("must be unique"));
  batch = TwoGroups();
  batch.group_ids = {8};
  EXPECT_THAT(message(batch, rollouts), HasSubstr("group 3 sample 0: its group is not among"));
}

TrainBatch GroupsOf(const std::vector<size_t>& sizes) {
  TrainBatch batch;
  for (size_t group = 0; group < sizes.size(); ++group) {
    batch.group_ids.push_back(group);
    for (size_t i = 0; i < sizes[group]; ++i) {
      TrainSequence sequence;
      sequence.group_id = group;
      sequence.sample_index = static_cast<uint32_t>(i);
      sequence.token_ids = {1, 2};
      sequence.loss_mask = {0, 1};
      batch.sequences.push_back(std::move(sequence));
    }
  }
  return batch;
}

TEST(SelectPairs, BestAgainstWorstOrTheFirstTwo) {
  TrainBatch batch = GroupsOf({4, 3, 3, 1});
  const std::vector<std::optional<double>> rewards = {1, 5, 5, 0, std::nullopt, 2, 2, 3, 3, 1, 9};
  const SelectedPairs best = SelectPairs(batch, rewards, false);
  ASSERT_EQ(best.pairs.size(), 2u);
  EXPECT_EQ(best.pairs[0].chosen, 1u);  // the first of equal ones
  EXPECT_EQ(best.pairs[0].rejected, 3u);
  EXPECT_EQ(best.pairs[1].chosen, 7u);
  EXPECT_EQ(best.pairs[1].rejected, 9u);
  EXPECT_EQ(best.tied_groups, 1u);
  EXPECT_EQ(best.incomplete_groups, 1u);

  const SelectedPairs two = SelectPairs(batch, rewards, true);
  ASSERT_EQ(two.pairs.size(), 1u);
  EXPECT_EQ(two.pairs[0].chosen, 1u);
  EXPECT_EQ(two.pairs[0].rejected, 0u);
  EXPECT_EQ(two.tied_groups, 2u);

  batch.sequences[1].loss_mask = {0, 0};  // nothing of it could be trained
  EXPECT_EQ(SelectPairs(batch, rewards, true).pairs[0].chosen, 2u);
}

}  // namespace
}  // namespace rollcall::learner
