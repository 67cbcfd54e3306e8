#include "services/generator/sampling/stop_conditions.h"

#include <gtest/gtest.h>

namespace rollcall::generator {
namespace {

StopConditions Conditions() { return {.max_tokens = 100, .max_completion = 100}; }

TEST(StopTrackerTest, StopTokenEndsTheCompletion) {
  StopConditions conditions = Conditions();
  conditions.token_ids = {2, 7};
  StopTracker tracker(&conditions);
  EXPECT_FALSE(tracker.Append(1, "").has_value());
  const auto cause = tracker.Append(7, "");
  ASSERT_TRUE(cause.has_value());
  EXPECT_EQ(cause->kind, StopCause::Kind::kToken);
  EXPECT_EQ(cause->token_id, 7u);
}

TEST(StopTrackerTest, MinTokensComeBeforeTheStop) {
  StopConditions conditions = Conditions();
  conditions.token_ids = {2};
  conditions.strings = {"x"};
  conditions.min_tokens = 2;
  StopTracker tracker(&conditions);
  EXPECT_FALSE(tracker.Append(2, "x").has_value());
  EXPECT_FALSE(tracker.Append(2, "x").has_value());
  // The earlier occurrences do not count afterwards.
  EXPECT_FALSE(tracker.Append(1, "a").has_value());
  EXPECT_TRUE(tracker.Append(2, "b").has_value());
}

TEST(StopTrackerTest, StringIsFoundAcrossTokens) {
  StopConditions conditions = Conditions();
  conditions.strings = {"the end", "END"};
  StopTracker tracker(&conditions);
  for (const char* text : {"This is the", "", " e", "n"}) {
    EXPECT_FALSE(tracker.Append(1, text).has_value()) << text;
  }
  const auto cause = tracker.Append(1, "d of it");
  ASSERT_TRUE(cause.has_value());
  EXPECT_EQ(cause->kind, StopCause::Kind::kString);
  EXPECT_EQ(cause->string_index, 0u);
}

TEST(StopTrackerTest, OfSeveralStringsTheFirstToEndWins) {
  StopConditions conditions = Conditions();
  conditions.strings = {"longer text", "text", "ext", "b"};
  StopTracker tracker(&conditions);
  EXPECT_EQ(tracker.Append(1, "a longer text, b")->string_index, 0u);
  conditions.strings = {"zz", "a"};
  StopTracker other(&conditions);
  EXPECT_EQ(other.Append(1, "bazz")->string_index, 1u);
}

TEST(StopTrackerTest, KeepsNoMoreTextThanItNeeds) {
  StopConditions conditions = Conditions();
  conditions.max_tokens = conditions.max_completion = 1u << 20;
  conditions.strings = {"aab"};
  StopTracker tracker(&conditions);
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(tracker.Append(1, "a").has_value());
  EXPECT_TRUE(tracker.Append(1, "b").has_value());
}

TEST(StopTrackerTest, LengthAndContextEndItInThisOrder) {
  StopConditions conditions{.max_tokens = 2, .max_completion = 2};
  StopTracker tracker(&conditions);
  EXPECT_FALSE(tracker.Append(1, "").has_value());
  EXPECT_EQ(tracker.Append(1, "")->kind, StopCause::Kind::kLength);
  conditions.max_tokens = 3;
  StopTracker full(&conditions);
  EXPECT_FALSE(full.Append(1, "").has_value());
  EXPECT_EQ(full.Append(1, "")->kind, StopCause::Kind::kContext);
}

}  // namespace
}  // namespace rollcall::generator
