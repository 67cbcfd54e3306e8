#include "services/learner/data/block_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace rollcall::learner {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// Blocks of 1 MiB: the first ones stand alone, the last ones are two runs.
std::vector<RowBlock> Blocks() {
  std::vector<RowBlock> blocks;
  for (uint64_t i = 0; i < 40; ++i) blocks.push_back({.rows = 5 + i % 3, .bytes = kMiB});
  for (uint64_t i = 0; i < 30; ++i) {
    blocks.push_back({.rows = 4, .bytes = kMiB, .goes_on = i % 15 != 0});
  }
  return blocks;
}

// Block and row of it, in visiting order of an epoch.
std::vector<std::pair<size_t, uint64_t>> Visits(const BlockOrder& order,
                                                const std::vector<RowBlock>& blocks,
                                                uint64_t epoch) {
  std::vector<std::pair<size_t, uint64_t>> visits;
  for (uint64_t at = 0; at < order.rows();) {
    const BlockOrder::Window window = order.WindowOf(epoch * order.rows() + at);
    EXPECT_EQ(window.epoch, epoch);
    EXPECT_EQ(window.first_ordinal, epoch * order.rows() + at);
    std::vector<std::pair<size_t, uint64_t>> rows;
    uint64_t bytes = 0;
    for (const size_t block : window.blocks) {
      bytes += blocks[block].bytes;
      for (uint64_t row = 0; row < blocks[block].rows; ++row) rows.emplace_back(block, row);
    }
    EXPECT_LE(bytes, 16 * kMiB);
    EXPECT_EQ(rows.size(), window.order.size());
    for (const uint32_t index : window.order) visits.push_back(rows[index]);
    at += window.order.size();
  }
  return visits;
}

TEST(BlockOrder, EveryEpochVisitsEveryRowOnceInAnotherOrder) {
  const BlockOrder order(7, Blocks(), /*shuffle=*/true, 0);
  const auto first = Visits(order, Blocks(), 0), second = Visits(order, Blocks(), 1);
  EXPECT_EQ(first.size(), order.rows());
  EXPECT_EQ(std::set(first.begin(), first.end()).size(), order.rows());
  EXPECT_EQ(std::set(second.begin(), second.end()).size(), order.rows());
  EXPECT_NE(first, second);
  EXPECT_NE(first, Visits(BlockOrder(8, Blocks(), true, 0), Blocks(), 0));
  EXPECT_NE(first, Visits(BlockOrder(7, Blocks(), true, 1), Blocks(), 0));
}

TEST(BlockOrder, AnOrdinalAloneSaysWhereItIs) {
  const BlockOrder order(7, Blocks(), true, 0);
  for (const uint64_t ordinal : {uint64_t{3}, order.rows() * 5 + 17, uint64_t{0}, order.rows()}) {
    const BlockOrder fresh(7, Blocks(), true, 0);
    const auto one = order.WindowOf(ordinal), other = fresh.WindowOf(ordinal);
    EXPECT_EQ(one.first_ordinal, other.first_ordinal);
    EXPECT_EQ(one.blocks, other.blocks);
    EXPECT_EQ(one.order, other.order);
    EXPECT_GE(ordinal, one.first_ordinal);
    EXPECT_LT(ordinal - one.first_ordinal, one.order.size());
  }
}

TEST(BlockOrder, ARunIsReadFromItsBeginningOn) {
  const std::vector<RowBlock> blocks = Blocks();
  const BlockOrder order(3, blocks, true, 0);
  std::vector<size_t> read;
  for (uint64_t at = 0; at < order.rows();) {
    const auto window = order.WindowOf(at);
    read.insert(read.end(), window.blocks.begin(), window.blocks.end());
    at += window.order.size();
  }
  for (size_t i = 0; i < read.size(); ++i) {
    if (blocks[read[i]].goes_on) {
      EXPECT_EQ(read[i - 1] + 1, read[i]);
    }
  }
}

TEST(BlockOrder, RowsOfAWindowComeFromFarApartAndMix) {
  // 4 GiB of rows: a window of a shuffled epoch has blocks of all parts of the file.
  std::vector<RowBlock> blocks(4096, {.rows = 100, .bytes = kMiB});
  const BlockOrder order(1, blocks, true, 0);
  const auto window = order.WindowOf(0);
  EXPECT_EQ(window.blocks.size(), 16u);
  const auto [least, most] = std::minmax_element(window.blocks.begin(), window.blocks.end());
  EXPECT_GT(*most - *least, 2048u);
  std::set<uint32_t> blocks_of_a_batch;
  for (size_t i = 0; i < 64; ++i) blocks_of_a_batch.insert(window.order[i] / 100);
  EXPECT_GT(blocks_of_a_batch.size(), 12u);
}

TEST(BlockOrder, WithoutShufflingItIsTheFilesOrder) {
  const auto visits = Visits(BlockOrder(7, Blocks(), false, 0), Blocks(), 2);
  EXPECT_TRUE(std::is_sorted(visits.begin(), visits.end()));
  EXPECT_EQ(visits.size(), BlockOrder(7, Blocks(), false, 0).rows());
}

}  // namespace
}  // namespace rollcall::learner
