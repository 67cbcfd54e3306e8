#include "services/learner/rollout/generator_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rollcall::learner {
namespace {

TEST(GeneratorPoolTest, GivesWorkToTheLeastLoadedThatServesTheVersion) {
  GeneratorPool pool({"a", "b", "c"});
  EXPECT_EQ(pool.Acquire(1, 8, std::nullopt), std::nullopt);
  pool.MarkServing(0, 1);
  pool.MarkServing(1, 1);
  pool.MarkServing(2, 0);
  EXPECT_EQ(pool.Acquire(1, 8, std::nullopt), 0u);
  EXPECT_EQ(pool.Acquire(1, 4, std::nullopt), 1u);
  EXPECT_EQ(pool.Acquire(1, 4, std::nullopt), 1u);
  pool.Release(0, 8);
  EXPECT_EQ(pool.Acquire(1, 4, std::nullopt), 0u);
  EXPECT_EQ(pool.CountServing(1), 2u);
  EXPECT_EQ(pool.DescribeMissing(1), "c: serves step 0");
}

TEST(GeneratorPoolTest, AvoidsWhoJustFailedUnlessThereIsNoOther) {
  GeneratorPool pool({"a", "b"});
  pool.MarkServing(0, 1);
  EXPECT_EQ(pool.Acquire(1, 1, 0), 0u);
  pool.MarkServing(1, 1);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(pool.Acquire(1, 10, 0), 1u);
  pool.MarkUnusable(1, "connection refused");
  EXPECT_EQ(pool.Acquire(1, 1, 0), 0u);
  EXPECT_EQ(pool.DescribeMissing(1), "b: connection refused");
}

TEST(GeneratorPoolTest, TellsWhenAGeneratorBecomesUsable) {
  GeneratorPool pool({"a"});
  int calls = 0;
  pool.OnServing([&] { ++calls; });
  pool.MarkServing(0, 1);
  pool.MarkServing(0, 1);
  EXPECT_EQ(calls, 1);
  pool.MarkUnusable(0, "gone");
  pool.MarkServing(0, 1);
  pool.MarkServing(0, 2);
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace rollcall::learner
