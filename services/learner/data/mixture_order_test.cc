#include "services/learner/data/mixture_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace rollcall::learner {
namespace {

size_t SourceOf(uint64_t row, const std::vector<SourceRows>& sources) {
  size_t source = 0;
  while (row >= sources[source].rows) row -= sources[source++].rows;
  return source;
}

TEST(MixtureOrder, WithoutSourcesIsTheEpochOrder) {
  const MixtureOrder mixture(7, 10, /*shuffle=*/true, {});
  const EpochOrder order(7, 10, /*shuffle=*/true);
  for (uint64_t n = 0; n < 35; ++n) {
    EXPECT_EQ(mixture.At(n).row, order.RowAt(n));
    EXPECT_EQ(mixture.At(n).epoch, n / 10);
  }
}

TEST(MixtureOrder, EveryPrefixHasItsShares) {
  const std::vector<SourceRows> sources = {{5, 0.5}, {3, 2}, {7, 0.01}, {2, 1.49}};
  const MixtureOrder mixture(3, 17, /*shuffle=*/true, sources);
  std::vector<double> drawn(sources.size(), 0);
  for (uint64_t n = 0; n < 4'000; ++n) {
    ++drawn[SourceOf(mixture.At(n).row, sources)];
    for (size_t i = 0; i < sources.size(); ++i) {
      // Each earlier source rounds once.
      ASSERT_LT(std::abs(drawn[i] - sources[i].weight / 4 * static_cast<double>(n + 1)),
                static_cast<double>(i + 1) + 1e-3)
          << "source " << i << " after " << n + 1;
    }
  }
  // 4000 draws at 0.01 of 4, rounded up.
  EXPECT_NEAR(drawn[2], 10, 1);
}

TEST(MixtureOrder, EachSourceIsVisitedEpochByEpoch) {
  const std::vector<SourceRows> sources = {{6, 1}, {6, 2}};
  const MixtureOrder mixture(11, 12, /*shuffle=*/true, sources);
  std::vector<std::vector<uint64_t>> visits(2);
  for (uint64_t n = 0; n < 36; ++n) {
    const MixtureOrder::Draw draw = mixture.At(n);
    auto& of_source = visits[SourceOf(draw.row, sources)];
    EXPECT_EQ(draw.epoch, of_source.size() / 6);
    of_source.push_back(draw.row % 6);
  }
  ASSERT_EQ(visits[0].size(), 12u);
  ASSERT_EQ(visits[1].size(), 24u);
  for (const auto& of_source : visits) {
    for (size_t first = 0; first < of_source.size(); first += 6) {
      const std::set<uint64_t> epoch(of_source.begin() + static_cast<ptrdiff_t>(first),
                                     of_source.begin() + static_cast<ptrdiff_t>(first) + 6);
      EXPECT_EQ(epoch.size(), 6u);
    }
  }
  // Sources are shuffled independently of each other.
  EXPECT_NE(std::vector<uint64_t>(visits[0].begin(), visits[0].begin() + 12),
            std::vector<uint64_t>(visits[1].begin(), visits[1].begin() + 12));
}

TEST(MixtureOrder, TheOrdinalAloneDecides) {
  const std::vector<SourceRows> sources = {{50, 1}, {20, 3}};
  const MixtureOrder forwards(5, 70, true, sources), backwards(5, 70, true, sources);
  std::vector<uint64_t> rows;
  for (uint64_t n = 0; n < 300; ++n) rows.push_back(forwards.At(n).row);
  for (uint64_t n = 300; n-- > 0;) EXPECT_EQ(backwards.At(n).row, rows[n]);
}

}  // namespace
}  // namespace rollcall::learner
