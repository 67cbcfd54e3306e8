#include "services/reward/compose/compose.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace rollcall::reward {
namespace {

using ::testing::HasSubstr;

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

std::vector<RewardTerm> Terms(const std::vector<std::string>& configs) {
  std::vector<RewardTerm> terms;
  for (const std::string& config : configs) {
    terms.emplace_back(FromText<v1::VerifierConfig>(config));
  }
  return terms;
}

v1::SampleResult Compose(const std::vector<RewardTerm>& terms,
                         const std::vector<std::string>& results) {
  std::vector<v1::SampleResult> parsed;
  for (const std::string& result : results) {
    parsed.push_back(FromText<v1::SampleResult>("index: 3 " + result));
  }
  std::vector<const v1::SampleResult*> row;
  for (const v1::SampleResult& result : parsed) row.push_back(&result);
  return ComposeSample(terms, row);
}

TEST(ComposeSampleTest, SumsWeightedScoresAndNamesTheComponents) {
  const auto terms = Terms({"name: 'right' weight: 1", "name: 'form' weight: -0.5"});
  const v1::SampleResult result =
      Compose(terms, {"score { value: 1 detail: '42' components { key: 'correct' value: 1 } }",
                      "score { value: 0.5 detail: 'long' }"});
  EXPECT_EQ(result.index(), 3u);
  EXPECT_EQ(result.score().value(), 0.75);
  EXPECT_EQ(result.score().detail(), "right: 42; form: long");
  EXPECT_EQ(result.score().components().size(), 3u);
  EXPECT_EQ(result.score().components().at("right"), 1);
  EXPECT_EQ(result.score().components().at("right/correct"), 1);
  EXPECT_EQ(result.score().components().at("form"), 0.5);
}

TEST(ComposeSampleTest, AFailureIsNeverAScore) {
  const auto terms = Terms({"name: 'a' weight: 1", "name: 'b' weight: 1", "name: 'c' weight: 1"});
  const v1::SampleResult passing =
      Compose(terms, {"score { value: 1 }", "retry { reason: 'busy' }", "score { value: 1 }"});
  ASSERT_TRUE(passing.has_retry());
  EXPECT_EQ(passing.retry().reason(), "b: busy");
  const v1::SampleResult lasting =
      Compose(terms, {"error { reason: 'broken' }", "retry { reason: 'busy' }", "retry {}"});
  ASSERT_TRUE(lasting.has_error());
  EXPECT_EQ(lasting.error().reason(), "a: broken; b: busy; c: failed");
  const auto gate = Terms({"name: 'a' weight: 1", "name: 'g' weight: 0 gate: 0.5"});
  EXPECT_TRUE(Compose(gate, {"score { value: 1 }", "error {}"}).has_error());
}

TEST(ComposeSampleTest, AFailureOfAVerifierThatOnlyReportsIsLeftOut) {
  const auto terms = Terms({"name: 'a' weight: 1", "name: 'note' weight: 0"});
  const v1::SampleResult result = Compose(terms, {"score { value: 1 }", "error {}"});
  EXPECT_EQ(result.score().value(), 1);
  EXPECT_EQ(result.score().components().count("note"), 0u);
  const v1::SampleResult scored = Compose(terms, {"score { value: 1 }", "score { value: 7 }"});
  EXPECT_EQ(scored.score().value(), 1);
  EXPECT_EQ(scored.score().components().at("note"), 7);
}

TEST(ComposeSampleTest, WhereAllOnlyReportTheSumIsEmptyAndNotMissing) {
  const auto terms = Terms({"name: 'a' weight: 0", "name: 'note' weight: 0"});
  const v1::SampleResult result = Compose(terms, {"score { value: 1 }", "error {}"});
  ASSERT_TRUE(result.has_score());
  EXPECT_EQ(result.score().value(), 0);
  EXPECT_EQ(result.score().components().at("a"), 1);
  EXPECT_TRUE(Compose(terms, {"abstain {}", "abstain {}"}).has_score());
}

TEST(ComposeSampleTest, AbstentionsLeaveTheSumAndAllOfThemAbstain) {
  const auto terms = Terms({"name: 'a' weight: 1 gate: 1 reward_if_gated: -1",
                            "name: 'b' weight: 2", "name: 'note' weight: 0"});
  const v1::SampleResult one =
      Compose(terms, {"abstain { reason: 'no tests' }", "score { value: 0.25 }", "abstain {}"});
  EXPECT_EQ(one.score().value(), 0.5);
  const v1::SampleResult all = Compose(
      terms, {"abstain { reason: 'no tests' }", "abstain { reason: 'x' }", "score { value: 1 }"});
  ASSERT_TRUE(all.has_abstain());
  EXPECT_EQ(all.abstain().reason(), "a: no tests; b: x");
}

TEST(ComposeSampleTest, TheFirstClosedGateDecides) {
  const auto terms =
      Terms({"name: 'a' weight: 1", "name: 'g' weight: 0 gate: 0.5 reward_if_gated: -1",
             "name: 'h' weight: 1 gate: 1 reward_if_gated: -2"});
  const auto values = [&](double g, double h) {
    return Compose(terms, {"score { value: 3 spans { begin: 0 end: 1 value: 1 } }",
                           absl::StrCat("score { value: ", g, " }"),
                           absl::StrCat("score { value: ", h, " }")})
        .score();
  };
  EXPECT_EQ(values(0.5, 1).value(), 4);
  EXPECT_EQ(values(0.4, 1).value(), -1);
  EXPECT_EQ(values(0.4, 0).value(), -1);
  EXPECT_EQ(values(1, 0).value(), -2);
  EXPECT_EQ(values(1, 1).spans_size(), 1);
  EXPECT_EQ(values(1, 0).spans_size(), 0);
}

TEST(ComposeSampleTest, SpansAreWeighted) {
  const auto terms = Terms({"name: 'a' weight: 2", "name: 'note' weight: 0"});
  const v1::SampleResult result =
      Compose(terms, {"score { value: 1 spans { begin: 2 end: 5 value: 0.5 } }",
                      "score { value: 1 spans { begin: 0 end: 1 value: 9 } }"});
  ASSERT_EQ(result.score().spans_size(), 1);
  EXPECT_EQ(result.score().spans(0).begin(), 2u);
  EXPECT_EQ(result.score().spans(0).value(), 1);
}

TEST(ComposeSampleTest, ASumBeyondTheNumbersIsAnError) {
  const auto terms = Terms({"name: 'a' weight: 1e308", "name: 'b' weight: 1e308"});
  EXPECT_TRUE(Compose(terms, {"score { value: 10 }", "score { value: 10 }"}).has_error());
}

TEST(ComposeSampleTest, KeepsWithinTheContractsLimits) {
  std::vector<std::string> configs;
  std::vector<std::string> results;
  for (int v = 0; v < 3; ++v) {
    configs.push_back(absl::StrCat("name: 'v", v, "' weight: 1"));
    std::string result = "score { value: 1 detail: '" + std::string(3000, 'x') + "' ";
    for (int c = 0; c < 40; ++c) {
      absl::StrAppend(&result, "components { key: 'c", c, "' value: 1 } ");
    }
    results.push_back(result + "components { key: '" + std::string(64, 'n') + "' value: 1 } }");
  }
  const v1::SampleResult result = Compose(Terms(configs), results);
  EXPECT_EQ(result.score().components().size(), 64u);
  EXPECT_EQ(result.score().components().count("v2"), 1u);
  EXPECT_EQ(result.score().detail().size(), 4096u);
  v1::SampleResult copy = result;
  EXPECT_TRUE(EnforceContract({}, &copy));
}

TEST(CheckShapeTest, NamesTheFirstDifference) {
  const auto group = FromText<v1::VerifierGroup>(
      "group_id: 7 samples { index: 0 } "
      "samples { index: 2 }");
  const std::vector<const v1::VerifierGroup*> groups = {&group};
  const struct {
    const char* response;
    const char* error;  // "" for none
  } kCases[] = {
      {"groups { group_id: 7 samples { index: 0 } samples { index: 2 } }", ""},
      {"", "groups: expected 1, got 0"},
      {"groups { group_id: 8 }", "groups[0].group_id: expected 7, got 8"},
      {"groups { group_id: 7 samples { index: 0 } }", "groups[0].samples: expected 2, got 1"},
      {"groups { group_id: 7 samples { index: 0 } samples { index: 1 } }",
       "groups[0].samples[1].index: expected 2, got 1"},
  };
  for (const auto& c : kCases) {
    EXPECT_EQ(std::string(CheckShape(groups, FromText<v1::ScoreResponse>(c.response)).message()),
              c.error);
  }
}

TEST(EnforceContractTest, TurnsBreachesIntoErrors) {
  const auto sample = FromText<v1::VerifierSample>("token_ids: [1, 2, 3]");
  const struct {
    const char* result;
    const char* reason;  // "" for a result that may stay
  } kCases[] = {
      {"score { value: -2 components { key: 'a_b.c/9' value: 1 } "
       "spans { begin: 0 end: 3 value: 1 } }",
       ""},
      {"abstain {}", ""},
      {"", "outcome: not set"},
      {"score { value: nan }", "score.value: must be finite, got nan"},
      {"score { value: inf }", "score.value: must be finite, got inf"},
      {"score { components { key: 'A' value: 1 } }", "names are [a-z0-9_./]{1,64}, got \"A\""},
      {"score { components { key: '' value: 1 } }", "names are"},
      {"score { components { key: 'a' value: -inf } }", "score.components[a]: must be finite"},
      {"score { spans { begin: 1 end: 4 } }", "score.spans[0]: [1, 4) is not a part of the 3"},
      {"score { spans { begin: 1 end: 1 } }", "score.spans[0]"},
      {"score { spans { begin: 0 end: 1 value: nan } }", "score.spans[0].value"},
  };
  for (const auto& c : kCases) {
    auto result = FromText<v1::SampleResult>(c.result);
    const bool keeps = std::string(c.reason).empty();
    EXPECT_EQ(EnforceContract(sample, &result), keeps) << c.result;
    EXPECT_EQ(result.has_error(), !keeps) << c.result;
    if (!keeps) {
      EXPECT_THAT(result.error().reason(), HasSubstr(c.reason));
    }
  }
  v1::SampleResult many;
  for (int i = 0; i < 65; ++i) {
    (*many.mutable_score()->mutable_components())[absl::StrCat("c", i)] = 1;
  }
  EXPECT_FALSE(EnforceContract(sample, &many));
  v1::SampleResult chatty;
  chatty.mutable_error()->set_reason(std::string(5000, 'x'));
  EXPECT_TRUE(EnforceContract(sample, &chatty));
  EXPECT_EQ(chatty.error().reason().size(), 4096u);
}

}  // namespace
}  // namespace rollcall::reward
