#include "services/learner/data/epoch_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

namespace rollcall::learner {
namespace {

std::vector<uint64_t> Epoch(const EpochOrder& order, uint64_t epoch) {
  std::vector<uint64_t> rows;
  for (uint64_t i = 0; i < order.rows(); ++i) rows.push_back(order.RowAt(epoch * order.rows() + i));
  return rows;
}

TEST(EpochOrder, EveryEpochVisitsEveryRowInItsOwnOrder) {
  const EpochOrder order(7, 50, /*shuffle=*/true);
  std::set<std::vector<uint64_t>> orders;
  for (uint64_t epoch = 0; epoch < 3; ++epoch) {
    const std::vector<uint64_t> rows = Epoch(order, epoch);
    EXPECT_EQ(std::set<uint64_t>(rows.begin(), rows.end()).size(), 50u);
    orders.insert(rows);
  }
  EXPECT_EQ(orders.size(), 3u);
  EXPECT_NE(Epoch(EpochOrder(8, 50, true), 0), Epoch(order, 0));
}

TEST(EpochOrder, AnOrdinalAloneDeterminesTheRow) {
  const EpochOrder forward(3, 17, true), resumed(3, 17, true);
  std::map<uint64_t, uint64_t> rows;
  for (uint64_t i = 0; i < 100; ++i) rows[i] = forward.RowAt(i);
  for (uint64_t i = 100; i-- > 0;) EXPECT_EQ(resumed.RowAt(i), rows[i]) << i;
}

TEST(EpochOrder, WithoutShufflingItIsFileOrder) {
  EXPECT_THAT(Epoch(EpochOrder(3, 4, false), 5), ::testing::ElementsAre(0, 1, 2, 3));
}

TEST(EpochOrder, ShufflesEvenly) {
  // Each of the 6 orders of 3 rows in about a sixth of 6,000 epochs: standard deviation 29.
  const EpochOrder order(11, 3, true);
  std::map<std::vector<uint64_t>, int> counts;
  for (uint64_t epoch = 0; epoch < 6000; ++epoch) ++counts[Epoch(order, epoch)];
  ASSERT_EQ(counts.size(), 6u);
  for (const auto& [rows, count] : counts) EXPECT_NEAR(count, 1000, 145);
}

}  // namespace
}  // namespace rollcall::learner
