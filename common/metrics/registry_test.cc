#include "common/metrics/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace rollcall::metrics {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(RegistryTest, ExposesEveryKind) {
  Registry registry;
  registry.AddCounter("rollcall_test_tokens_total", "Tokens.", {{"kind", "a"}}).Increment(3);
  registry.AddGauge("rollcall_test_running", "Running.").Set(2);
  registry.AddHistogram("rollcall_test_seconds", "Latency.", {0.1, 1.0}).Observe(0.5);
  EXPECT_THAT(registry.Text(), AllOf(HasSubstr("# HELP rollcall_test_tokens_total Tokens.\n"),
                                     HasSubstr("# TYPE rollcall_test_tokens_total counter\n"),
                                     HasSubstr("rollcall_test_tokens_total{kind=\"a\"} 3"),
                                     HasSubstr("rollcall_test_running 2"),
                                     HasSubstr("rollcall_test_seconds_bucket{le=\"0.1\"} 0"),
                                     HasSubstr("rollcall_test_seconds_bucket{le=\"1\"} 1"),
                                     HasSubstr("rollcall_test_seconds_count 1")));
}

TEST(RegistryTest, SameNameAndLabelsAreTheSameMetric) {
  Registry registry;
  Counter& first = registry.AddCounter("rollcall_test_total", "T.", {{"reason", "stale"}});
  Counter& again = registry.AddCounter("rollcall_test_total", "T.", {{"reason", "stale"}});
  Counter& other = registry.AddCounter("rollcall_test_total", "T.", {{"reason", "failed"}});
  EXPECT_EQ(&first, &again);
  EXPECT_NE(&first, &other);
}

TEST(RegistryTest, BuildInfoNamesServiceAndVersion) {
  Registry registry;
  registry.AddBuildInfo("generator");
  EXPECT_THAT(registry.Text(),
              AllOf(HasSubstr("rollcall_build_info{"), HasSubstr("service=\"generator\""),
                    HasSubstr("version=\"0.")));
}

TEST(RegistryTest, BucketsGrowByTheFactor) {
  EXPECT_THAT(ExponentialBuckets(1, 4, 3), ElementsAre(1, 4, 16));
  EXPECT_DOUBLE_EQ(LatencyBuckets().front(), 0.001);
  EXPECT_GT(LatencyBuckets().back(), 120);
}

TEST(RegistryDeathTest, BadNamesAbort) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Registry registry;
  EXPECT_DEATH(registry.AddCounter("tokens", "No prefix."), "must start with rollcall_");
  EXPECT_DEATH(registry.AddCounter("rollcall_a-b", "Bad character."), "bad metric");
}

}  // namespace
}  // namespace rollcall::metrics
