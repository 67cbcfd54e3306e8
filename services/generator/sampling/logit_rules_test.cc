#include "services/generator/sampling/logit_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace rollcall::generator {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

constexpr float kBanned = -std::numeric_limits<float>::infinity();
using Tokens = std::vector<uint32_t>;

std::vector<float> Apply(const std::vector<float>& logits, const LogitRules& rules,
                         const Tokens& prompt, const Tokens& completion) {
  LogitProcessor processor;
  const auto processed = processor.Apply(logits, rules, {prompt, completion});
  return {processed.begin(), processed.end()};
}

TEST(LogitRulesTest, WithoutRulesTheLogitsAreTheSameMemory) {
  const std::vector<float> logits = {1, 2};
  LogitProcessor processor;
  EXPECT_EQ(processor.Apply(logits, {}, {}).data(), logits.data());
}

TEST(LogitRulesTest, RepetitionPenaltyCountsPromptAndCompletionOnce) {
  EXPECT_THAT(Apply({2, -2, 2, 2}, {.repetition_penalty = 2}, {0, 1, 0}, {2, 0}),
              ElementsAre(1, -4, 1, 2));
}

TEST(LogitRulesTest, PresenceAndFrequencyCountTheCompletionOnly) {
  EXPECT_THAT(
      Apply({5, 5, 5}, {.presence_penalty = 1, .frequency_penalty = 0.5f}, {2, 2}, {0, 1, 0}),
      ElementsAre(3, 3.5f, 5));
  EXPECT_THAT(Apply({5, 5}, {.frequency_penalty = -0.5f}, {}, {0, 0, 0}), ElementsAre(6.5f, 5));
}

TEST(LogitRulesTest, BiasComesBeforeThePenalties) {
  EXPECT_THAT(Apply({1, 1}, {.repetition_penalty = 2, .bias = {{.token = 0, .bias = 3}}}, {0}, {}),
              ElementsAre(2, 1));
}

TEST(LogitRulesTest, NoRepeatBansWhatCompletesAnEarlierRun) {
  // The run 1 2 was followed by 3 and by 0; it spans prompt and completion.
  EXPECT_THAT(Apply({9, 9, 9, 9}, {.no_repeat_ngram_size = 3}, {1, 2, 3, 1}, {2, 0, 1, 2}),
              ElementsAre(kBanned, 9, 9, kBanned));
  // Runs of one token: every token is new. Shorter histories ban nothing.
  EXPECT_THAT(Apply({9, 9, 9}, {.no_repeat_ngram_size = 1}, {1}, {}), ElementsAre(9, kBanned, 9));
  EXPECT_THAT(Apply({9, 9, 9}, {.no_repeat_ngram_size = 3}, {1}, {1}), ElementsAre(9, 9, 9));
}

TEST(LogitRulesTest, BadWordsAreNeverCompleted) {
  const LogitRules rules{.bad_words = {{2}, {0, 1}, {3, 0, 1}, {0, 0, 0, 3}}};
  EXPECT_THAT(Apply({9, 9, 9, 9}, rules, {0}, {}), ElementsAre(9, 9, kBanned, 9));
  EXPECT_THAT(Apply({9, 9, 9, 9}, rules, {}, {0}), ElementsAre(9, kBanned, kBanned, 9));
  EXPECT_THAT(Apply({9, 9, 9, 9}, rules, {}, {0, 0, 0}), ElementsAre(9, kBanned, kBanned, kBanned));
}

TEST(LogitRulesTest, BansThatLeaveNothingAreNotApplied) {
  const LogitRules rules{.no_repeat_ngram_size = 1, .bad_words = {{1}}};
  EXPECT_THAT(Apply({9, 8, kBanned}, rules, {0}, {}), ElementsAre(9, 8, kBanned));
}

TEST(LogitRulesTest, ScratchIsCleanForTheNextCall) {
  LogitProcessor processor;
  const LogitRules rules{.repetition_penalty = 2, .frequency_penalty = 1};
  const std::vector<float> logits = {4, 4};
  const Tokens first = {0, 0}, second = {1};
  processor.Apply(logits, rules, {{}, first});
  EXPECT_THAT(processor.Apply(logits, rules, {{}, second}), ElementsAreArray({4.0f, 1.0f}));
}

}  // namespace
}  // namespace rollcall::generator
