#include "services/generator/cache_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rollcall::generator {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

// A block of 16 tokens takes 1 MiB; a sequence of 100 tokens takes 7 of them.
CacheDemand Demand() {
  return {.available = 1000 * kMiB,
          .available_source = "MemAvailable",
          .weights = 100 * kMiB,
          .block = kMiB,
          .block_tokens = 16,
          .context = 100,
          .max_running_samples = 1000};
}

TEST(CacheBudgetTest, AShareOfWhatTheWeightsLeave) {
  const auto budget = PlanCache(Demand());
  ASSERT_TRUE(budget.ok()) << budget.status();
  EXPECT_EQ(budget->blocks, 450u);
  EXPECT_EQ(budget->bytes, 450 * kMiB);
  EXPECT_EQ(budget->arithmetic,
            "(1000.00 MiB (MemAvailable) - 100.00 MiB weights - 0 B for other services) x 0.5 / 1 "
            "generator = 450.00 MiB");
}

TEST(CacheBudgetTest, ServicesOfOneBoxShare) {
  CacheDemand demand = Demand();
  demand.others = 300 * kMiB;
  demand.generators = 3;
  EXPECT_EQ(PlanCache(demand)->blocks, 100u);
  demand.others = 5000 * kMiB;
  EXPECT_EQ(PlanCache(demand).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CacheBudgetTest, NoMoreThanAllSamplesCanFill) {
  CacheDemand demand = Demand();
  demand.max_running_samples = 4;
  EXPECT_EQ(PlanCache(demand)->blocks, 28u);
}

TEST(CacheBudgetTest, ASizeThatIsAskedForMustBeThere) {
  CacheDemand demand = Demand();
  demand.wanted = 800 * kMiB + 5;
  EXPECT_EQ(PlanCache(demand)->blocks, 800u);
  demand.wanted = 901 * kMiB;
  const absl::Status refused = PlanCache(demand).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("generator.kv_cache_bytes: 901.00 MiB are wanted"));
  EXPECT_THAT(refused.message(), HasSubstr("leave 900.00 MiB"));
}

TEST(CacheBudgetTest, OneSequenceMustFit) {
  CacheDemand demand = Demand();
  demand.wanted = 7 * kMiB;
  EXPECT_EQ(PlanCache(demand)->blocks, 7u);
  demand.wanted = 7 * kMiB - 1;
  const absl::Status refused = PlanCache(demand).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  // It says what would do: more memory, or shorter sequences.
  EXPECT_THAT(refused.message(), HasSubstr("7.00 MiB would hold it"));
  EXPECT_THAT(refused.message(), HasSubstr("a context of 96 fits"));
}

TEST(CacheBudgetTest, WeightsThatDoNotFitAreRefusedFirst) {
  CacheDemand demand = Demand();
  demand.weights = 1000 * kMiB;
  const absl::Status refused = PlanCache(demand).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("the weights take 1000.00 MiB"));
}

}  // namespace
}  // namespace rollcall::generator
