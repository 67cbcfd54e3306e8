#include "services/cli/rlaif/preference.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <set>
#include <vector>

namespace rollcall::cli {
namespace {

TEST(DrawPrinciple, DrawsEachAsOftenAsItsWeightSays) {
  const std::vector<double> weights = {3, 1, 6};
  std::array<int, 3> counts{};
  for (uint64_t item = 0; item < 10'000; ++item) ++counts[DrawPrinciple(7, item, 0, weights)];
  EXPECT_NEAR(counts[0], 3000, 150);
  EXPECT_NEAR(counts[1], 1000, 100);
  EXPECT_NEAR(counts[2], 6000, 150);
}

TEST(DrawPrinciple, IsAFunctionOfSeedItemAndRound) {
  const std::vector<double> weights(16, 1.0);
  const auto draws = [&](uint64_t seed, uint32_t round) {
    std::vector<size_t> drawn;
    for (uint64_t item = 0; item < 64; ++item) {
      drawn.push_back(DrawPrinciple(seed, item, round, weights));
    }
    return drawn;
  };
  EXPECT_EQ(draws(1, 0), draws(1, 0));
  EXPECT_NE(draws(1, 0), draws(2, 0));
  EXPECT_NE(draws(1, 0), draws(1, 1));
  const std::vector<size_t> some = draws(1, 0);
  EXPECT_GT(std::set<size_t>(some.begin(), some.end()).size(), 10u);
  EXPECT_EQ(DrawPrinciple(5, 5, 5, std::vector<double>{0.1}), 0u);
}

TEST(Judgement, BothOrdersTogetherCancelTheBiasOfAPlace) {
  // The judge thinks the first answer better by 1 nat, and adds 3 nats to whatever stands first.
  const Judgement biased{.shown_first = 1 + 3, .shown_second = 1 - 3};
  EXPECT_DOUBLE_EQ(biased.LogOdds(), 1);
  EXPECT_DOUBLE_EQ(biased.PositionBias(), 3);
  EXPECT_FALSE(biased.OrdersAgree());

  const Judgement fair{.shown_first = -2, .shown_second = -1};
  EXPECT_DOUBLE_EQ(fair.LogOdds(), -1.5);
  EXPECT_TRUE(fair.OrdersAgree());
  // An order that says nothing agrees with none.
  EXPECT_FALSE((Judgement{.shown_first = 0, .shown_second = 1}.OrdersAgree()));
}

TEST(CombineLogOdds, WeighsPrinciples) {
  const std::vector<Judgement> judgements = {{2, 4}, {-1, -1}};
  EXPECT_DOUBLE_EQ(CombineLogOdds(judgements, std::vector<double>{1, 3}), (3.0 - 3) / 4);
  EXPECT_DOUBLE_EQ(CombineLogOdds(judgements, std::vector<double>{1, 1}), 1);
}

TEST(PreferenceOf, IsTheLogisticFunction) {
  EXPECT_DOUBLE_EQ(PreferenceOf(0), 0.5);
  EXPECT_NEAR(PreferenceOf(std::log(3)), 0.75, 1e-12);
  EXPECT_NEAR(PreferenceOf(2) + PreferenceOf(-2), 1, 1e-12);
  EXPECT_EQ(PreferenceOf(1e4), 1);
  EXPECT_EQ(PreferenceOf(-1e4), 0);
}

}  // namespace
}  // namespace rollcall::cli
