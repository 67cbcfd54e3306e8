#include "services/learner/trainer/pair_totals.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

namespace rollcall::learner {
namespace {

at::Tensor Doubles(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }

std::map<std::string, double> Report(const PairTotals& totals) {
  std::map<std::string, double> metrics;
  totals.Report("x/", metrics);
  return metrics;
}

TEST(PairTotals, ATieCountsHalf) {
  PairTotals totals;
  totals.AddPairs(Doubles({2, 1}), Doubles({1, 1}), Doubles({0.5, 0.25}));
  totals.AddPairs(Doubles({-1, 3}), Doubles({1, 0}), Doubles({1, 0.25}));
  const auto metrics = Report(totals);
  EXPECT_DOUBLE_EQ(metrics.at("x/accuracy"), 2.5 / 4);
  EXPECT_DOUBLE_EQ(metrics.at("x/chosen_reward"), 1.25);
  EXPECT_DOUBLE_EQ(metrics.at("x/rejected_reward"), 0.75);
  EXPECT_DOUBLE_EQ(metrics.at("x/margin"), 0.5);
  EXPECT_DOUBLE_EQ(totals.loss(), 2);
  EXPECT_DOUBLE_EQ(totals.count(), 4);
}

TEST(PairTotals, LabelledCompletionsAreHeldAgainstEachOther) {
  PairTotals totals;
  totals.AddLabelled(Doubles({3, 1, 2}), Doubles({1, 1, 0}), Doubles({1, 1, 1}));
  totals.AddLabelled(Doubles({1, 0}), Doubles({0, 0}), Doubles({1, 1}));
  // 3 beats 2, 1 and 0; 1 loses to 2, ties with 1, beats 0.
  const auto metrics = Report(totals);
  EXPECT_DOUBLE_EQ(metrics.at("x/accuracy"), (3 + 0.5 + 1) / 6);
  EXPECT_DOUBLE_EQ(metrics.at("x/margin"), 2 - 1);
  EXPECT_DOUBLE_EQ(totals.count(), 5);
}

TEST(PairTotals, OneClassHasNoAccuracy) {
  PairTotals totals;
  totals.AddLabelled(Doubles({3, 1}), Doubles({0, 0}), Doubles({1, 1}));
  const auto metrics = Report(totals);
  EXPECT_EQ(metrics.count("x/accuracy"), 0u);
  EXPECT_EQ(metrics.count("x/chosen_reward"), 0u);
  EXPECT_DOUBLE_EQ(metrics.at("x/rejected_reward"), 2);
  EXPECT_TRUE(Report(PairTotals()).empty());
}

TEST(PairTotals, WhatIsNotANumberOrdersNothing) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  PairTotals pairs;
  pairs.AddPairs(Doubles({nan, 1}), Doubles({0, nan}), Doubles({0, 0}));
  EXPECT_DOUBLE_EQ(Report(pairs).at("x/accuracy"), 0);
  PairTotals labelled;
  labelled.AddLabelled(Doubles({nan, 1, nan, 0}), Doubles({1, 1, 0, 0}), Doubles({0, 0, 0, 0}));
  EXPECT_DOUBLE_EQ(Report(labelled).at("x/accuracy"), 0.25);
}

}  // namespace
}  // namespace rollcall::learner
