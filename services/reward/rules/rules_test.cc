#include <gmock/gmock.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/reward/rules/column.h"
#include "services/reward/rules/decimal.h"
#include "services/reward/rules/rule.h"

namespace rollcall::reward {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<Rule> Make(const std::string& text_proto) {
  v1::VerifierConfig config;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text_proto, &config)) << text_proto;
  auto rule = MakeRule(config);
  EXPECT_TRUE(rule.ok()) << rule.status();
  return *std::move(rule);
}

absl::Status MakeError(const std::string& text_proto) {
  v1::VerifierConfig config;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text_proto, &config)) << text_proto;
  return MakeRule(config).status();
}

v1::VerifierGroup Row(const std::string& answer) {
  v1::VerifierGroup group;
  (*group.mutable_columns()->mutable_fields())["answer"].set_string_value(answer);
  return group;
}

v1::SampleResult Judge(const Rule& rule, const v1::VerifierGroup& group, const std::string& text,
                       int tokens = 0, v1::FinishReason finish = v1::FINISH_REASON_STOP_TOKEN) {
  v1::VerifierSample sample;
  sample.set_text(text);
  for (int i = 0; i < tokens; ++i) sample.add_token_ids(1);
  sample.set_finish_reason(finish);
  v1::SampleResult result;
  rule.Judge(group, sample, &result);
  return result;
}

double ScoreOf(const Rule& rule, const std::string& answer, const std::string& text) {
  const v1::SampleResult result = Judge(rule, Row(answer), text);
  EXPECT_TRUE(result.has_score()) << result.DebugString();
  return result.score().value();
}

TEST(ColumnTest, PathsReachNestedColumns) {
  v1::VerifierGroup group;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
      R"(columns {
           fields { key: "reward_model" value { struct_value {
             fields { key: "ground_truth" value { number_value: 42 } }
             fields { key: "parts" value { list_value { values { string_value: "a" } } } }
             fields { key: "none" value { null_value: NULL_VALUE } }
           } } }
           fields { key: "a.b" value { string_value: "whole" } }
           fields { key: "a" value { struct_value {
             fields { key: "b" value { string_value: "nested" } } } } }
         })",
      &group));
  v1::SampleResult result;
  EXPECT_EQ(TextOfColumn(group, "reward_model.ground_truth", &result), "42");
  EXPECT_EQ(TextOfColumn(group, "a.b", &result), "whole");
  EXPECT_EQ(TextsOfColumn(group, "reward_model.parts", &result)->size(), 1u);
  EXPECT_FALSE(TextOfColumn(group, "reward_model.parts", &result).has_value());
  EXPECT_THAT(result.error().reason(), HasSubstr("holds a list"));
  EXPECT_FALSE(TextOfColumn(group, "reward_model.none", &result).has_value());
  EXPECT_TRUE(result.has_abstain());
  for (const char* absent : {"reward_model.x", "reward_model.ground_truth.x", "x.y", ".", "a."}) {
    EXPECT_FALSE(TextOfColumn(group, absent, &result).has_value()) << absent;
    EXPECT_THAT(result.error().reason(), HasSubstr("has no column"));
  }
  const auto rule =
      Make("numeric_answer { answer_column: 'reward_model.ground_truth' marker: '####' }");
  EXPECT_EQ(Judge(*rule, group, "so #### 42").score().value(), 1);
}

TEST(DecimalTest, ReadsNumbersAsAnswersWriteThem) {
  const struct {
    const char* text;
    const char* number;  // nullptr: none
  } kCases[] = {
      {"42", "42"},
      {" 42.", "42"},
      {"42.0", "42"},
      {"$1,170.50", "1170.5"},
      {"-$5", "-5"},
      {"$-5", "-5"},
      {"+7", "7"},
      {"\\$18", "18"},
      {"£ 3", "3"},
      {"€0.10", "0.1"},
      {".5", "0.5"},
      {"007", "7"},
      {"-0", "0"},
      {"0.000", "0"},
      {"78 apples", "78"},
      {"78km", "78"},
      {"5, and", "5"},
      {"12,345,678", "12345678"},
      {"50%", "50"},
      {"3.14.", "3.14"},
      {"", nullptr},
      {"apples", nullptr},
      {"-", nullptr},
      {"$", nullptr},
      {"1/2", nullptr},
      {"1e5", nullptr},
      {"1E-5", nullptr},
      {"1.2.3", nullptr},
      {"--5", nullptr},
      {",5", nullptr},
      {"5 e5", "5"},
      {"1east", "1"},
      {"123456789012345678901234567890", "123456789012345678901234567890"},
  };
  for (const auto& c : kCases) {
    const auto number = Decimal::ReadPrefix(c.text);
    ASSERT_EQ(number.has_value(), c.number != nullptr) << c.text;
    if (number) {
      EXPECT_EQ(number->ToString(), c.number) << c.text;
    }
  }
}

TEST(DecimalTest, ReadsWholeTextsAndLastNumbers) {
  EXPECT_EQ(Decimal::ReadWhole(" 1,000.\n")->ToString(), "1000");
  EXPECT_FALSE(Decimal::ReadWhole("12 apples"));
  EXPECT_FALSE(Decimal::ReadWhole(""));
  const struct {
    const char* text;
    const char* number;
  } kCases[] = {
      {"So 3 + 4 = 7.", "7"},
      {"x is -3", "-3"},
      {"from 3-5", "5"},
      {"(2)-5", "5"},
      {"it costs $1,200.", "1200"},
      {"-$4 each", "-4"},
      {"\\boxed{42}", "42"},
      {"first 1, then 2, done", "2"},
      {".5", "0.5"},
      {"see ...7", "7"},
      {"none", nullptr},
      {"", nullptr},
  };
  for (const auto& c : kCases) {
    const auto number = Decimal::ReadLast(c.text);
    ASSERT_EQ(number.has_value(), c.number != nullptr) << c.text;
    if (number) {
      EXPECT_EQ(number->ToString(), c.number) << c.text;
    }
  }
}

TEST(DecimalTest, ToleranceIsAbsoluteAndZeroIsExact) {
  const Decimal a = *Decimal::ReadPrefix("0.1");
  const Decimal b = *Decimal::ReadPrefix("0.10000000000000001");
  EXPECT_FALSE(a.IsWithin(0, b));
  EXPECT_TRUE(a.IsWithin(1e-9, b));
  EXPECT_TRUE(Decimal::ReadPrefix("3.14")->IsWithin(0.01, *Decimal::ReadPrefix("3.145")));
  EXPECT_FALSE(Decimal::ReadPrefix("3.14")->IsWithin(0.01, *Decimal::ReadPrefix("3.2")));
}

TEST(ExactMatchTest, ComparesTheWholeOrWhatFollowsTheMarker) {
  const auto whole = Make("exact_match { answer_column: 'answer' strip: true }");
  EXPECT_EQ(ScoreOf(*whole, "Paris", " Paris\n"), 1);
  EXPECT_EQ(ScoreOf(*whole, "Paris", "paris"), 0);
  EXPECT_EQ(ScoreOf(*whole, "Paris", "It is Paris"), 0);
  const auto after = Make("exact_match { answer_column: 'answer' after: '=' strip: true }");
  EXPECT_EQ(ScoreOf(*after, "1449", "3+6=9, =1449"), 1);
  EXPECT_EQ(ScoreOf(*after, "1449", "=1449 =1450"), 0);
  const v1::SampleResult without = Judge(*after, Row("1449"), "1449");
  EXPECT_EQ(without.score().value(), 0);
  EXPECT_EQ(without.score().detail(), "no \"=\"");
  EXPECT_EQ(without.score().components().at("correct"), 0);
  const auto exact = Make("exact_match { answer_column: 'answer' }");
  EXPECT_EQ(ScoreOf(*exact, "a", " a"), 0);
  const auto folded = Make("exact_match { answer_column: 'answer' ignore_case: true }");
  EXPECT_EQ(ScoreOf(*folded, "Paris", "PARIS"), 1);
}

TEST(ColumnTest, FaultsOfTheRowAreErrorsAndNullAbstains) {
  const auto rule = Make("exact_match { answer_column: 'answer' strip: true }");
  EXPECT_THAT(Judge(*rule, {}, "x").error().reason(), HasSubstr("no column answer"));
  v1::VerifierGroup row;
  auto& value = (*row.mutable_columns()->mutable_fields())["answer"];
  value.set_null_value({});
  EXPECT_TRUE(Judge(*rule, row, "x").has_abstain());
  value.mutable_struct_value();
  EXPECT_TRUE(Judge(*rule, row, "x").has_error());
  value.mutable_list_value()->add_values()->set_string_value("x");
  EXPECT_THAT(Judge(*rule, row, "x").error().reason(), HasSubstr("holds a list"));
  value.set_number_value(42);
  EXPECT_EQ(Judge(*rule, row, "42").score().value(), 1);
  value.set_number_value(0.1);
  EXPECT_EQ(Judge(*rule, row, "0.1").score().value(), 1);
  value.set_bool_value(true);
  EXPECT_EQ(Judge(*rule, row, "true").score().value(), 1);
  EXPECT_THAT(rule->columns(), ElementsAre("answer"));
}

TEST(ColumnTest, CutsBetweenCharacters) {
  EXPECT_EQ(CutUtf8("aé", 2), "a");
  EXPECT_EQ(CutUtf8("aé", 3), "aé");
  EXPECT_EQ(CutUtf8("abc", 0), "");
  EXPECT_EQ(StripSpace(" \n"), "");
}

TEST(NumericAnswerTest, ReadsBehindTheLastMarker) {
  const auto rule = Make("numeric_answer { answer_column: 'answer' marker: '####' }");
  const std::string answer = "2 + 2 = <<2+2=4>>4 ... so 1,170\n#### 1,170";
  EXPECT_EQ(ScoreOf(*rule, answer, "#### 1170"), 1);
  EXPECT_EQ(ScoreOf(*rule, answer, "work\n####1170.00."), 1);
  EXPECT_EQ(ScoreOf(*rule, answer, "#### $1,170 in total"), 1);
  EXPECT_EQ(ScoreOf(*rule, answer, "#### 5 #### 1170"), 1);
  EXPECT_EQ(ScoreOf(*rule, answer, "#### 1170 #### 5"), 0);
  EXPECT_EQ(ScoreOf(*rule, answer, "#### 1171"), 0);
  EXPECT_EQ(ScoreOf(*rule, "7", "7"), 0);
  const v1::SampleResult unparsed = Judge(*rule, Row("7"), "#### seven");
  EXPECT_EQ(unparsed.score().components().at("parsed"), 0);
  EXPECT_EQ(unparsed.score().detail(), "no number");
  EXPECT_EQ(Judge(*rule, Row("7"), "#### 8").score().components().at("parsed"), 1);
  EXPECT_THAT(Judge(*rule, Row("seven"), "#### 7").error().reason(), HasSubstr("holds no number"));
}

TEST(NumericAnswerTest, FlexibleTakesTheLastNumberWithoutAMarker) {
  const auto rule =
      Make("numeric_answer { answer_column: 'answer' marker: '####' flexible: true }");
  EXPECT_EQ(ScoreOf(*rule, "7", "So 3 + 4 = 7."), 1);
  EXPECT_EQ(ScoreOf(*rule, "7", "7 or 8"), 0);
  EXPECT_EQ(ScoreOf(*rule, "7", "#### 8, no: 7"), 0);
  const auto tolerant =
      Make("numeric_answer { answer_column: 'answer' marker: '####' tolerance: 0.01 }");
  EXPECT_EQ(ScoreOf(*tolerant, "3.14", "#### 3.1415"), 1);
}

// verl's gsm8k score compares the texts behind the marker; ours the numbers, so it accepts more,
// and all it accepts more is equal as a decimal.
TEST(NumericAnswerTest, AgreesWithVerlOnGsm8k) {
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  std::ifstream file(absl::StrCat(data == nullptr ? "" : data, "/golden/rewards/answers.jsonl"));
  if (!file) GTEST_SKIP() << "no golden/rewards/answers.jsonl in ROLLCALL_TEST_DATA";
  const auto strict = Make("numeric_answer { answer_column: 'answer' marker: '####' }");
  const auto flexible =
      Make("numeric_answer { answer_column: 'answer' marker: '####' flexible: true }");
  int compared = 0;
  int more = 0;
  for (std::string line; std::getline(file, line);) {
    const auto row = nlohmann::json::parse(line);
    const auto answer = Decimal::ReadWhole(row["gold"].get<std::string>());
    if (!answer) continue;
    const std::string text = row["prediction"].get<std::string>();
    const bool verl = row["verl_gsm8k_strict"].get<double>() == 1;
    const bool ours = ScoreOf(*strict, row["gold"].get<std::string>(), text) == 1;
    ++compared;
    if (verl) {
      EXPECT_TRUE(ours) << line;
    }
    if (ours && !verl) {
      ++more;
      const auto given = Decimal::ReadPrefix(text.substr(text.rfind("####") + 4));
      ASSERT_TRUE(given) << line;
      EXPECT_EQ(*given, *answer) << line;
    }
    if (ours) {
      EXPECT_EQ(ScoreOf(*flexible, row["gold"].get<std::string>(), text), 1) << line;
    }
  }
  EXPECT_GT(compared, 60);
  EXPECT_GT(more, 0);
}

TEST(NumericAnswerTest, ReadsEveryAnswerOfGsm8k) {
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  std::ifstream file(absl::StrCat(data == nullptr ? "" : data, "/gsm8k/test.jsonl"));
  if (!file) GTEST_SKIP() << "no gsm8k/test.jsonl in ROLLCALL_TEST_DATA";
  const auto rule = Make("numeric_answer { answer_column: 'answer' marker: '####' }");
  int rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    const std::string answer = nlohmann::json::parse(line)["answer"].get<std::string>();
    EXPECT_EQ(ScoreOf(*rule, answer, answer), 1) << line;
  }
  EXPECT_EQ(rows, 1319);
}

TEST(RegexTest, MatchesAPartOrTheWhole) {
  const auto part = Make("regex { pattern: '<b>.*</b>' }");
  EXPECT_EQ(ScoreOf(*part, "", "so <b>4</b>!"), 1);
  EXPECT_EQ(ScoreOf(*part, "", "so 4"), 0);
  EXPECT_TRUE(part->columns().empty());
  const auto whole = Make("regex { pattern: '[0-9]+' full_match: true }");
  EXPECT_EQ(ScoreOf(*whole, "", "12"), 1);
  EXPECT_EQ(ScoreOf(*whole, "", "12 "), 0);
}

TEST(RegexTest, ComparesTheCaptureOfTheLastMatch) {
  const auto rule = Make("regex { pattern: 'answer: *(\\\\w+)' answer_column: 'answer' }");
  EXPECT_EQ(ScoreOf(*rule, "b", "answer: a ... answer: b"), 1);
  EXPECT_EQ(ScoreOf(*rule, "a", "answer: a ... answer: b"), 0);
  EXPECT_EQ(Judge(*rule, Row("a"), "?").score().detail(), "no match");
  const auto empty = Make("regex { pattern: '(x*)' answer_column: 'answer' }");
  EXPECT_EQ(ScoreOf(*empty, "", "abcé"), 1);
  const auto whole =
      Make("regex { pattern: '.*=(\\\\d)' answer_column: 'answer' full_match: true }");
  EXPECT_EQ(ScoreOf(*whole, "4", "2+2=4"), 1);
  EXPECT_EQ(ScoreOf(*whole, "4", "2+2=4!"), 0);
}

TEST(RegexTest, RefusesPatternsItCannotBound) {
  EXPECT_THAT(std::string(MakeError("regex { pattern: '(' }").message()),
              HasSubstr("regex.pattern: RE2 refuses it"));
  EXPECT_EQ(MakeError("regex { pattern: '((a{100}){100}){100}' }").code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeError(absl::StrCat("regex { pattern: '", std::string(5000, 'a'), "' }")).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(MakeError("regex { pattern: 'a' answer_column: 'x' }").message()),
              HasSubstr("capture group"));
  // Exponential for a backtracking matcher.
  const auto nested = Make("regex { pattern: '(a+)+$' }");
  EXPECT_EQ(ScoreOf(*nested, "", std::string(100'000, 'a') + "!"), 0);
}

TEST(LengthTest, FallsLinearlyOutsideTheBounds) {
  const auto rule = Make("length { min_tokens: 10 max_tokens: 20 soft_tokens: 4 }");
  const struct {
    int tokens;
    double score;
  } kCases[] = {{10, 1}, {20, 1}, {15, 1}, {9, 0.75}, {22, 0.5}, {24, 0}, {100, 0}, {0, 0}};
  for (const auto& c : kCases) {
    EXPECT_EQ(Judge(*rule, {}, "", c.tokens).score().value(), c.score) << c.tokens;
  }
  EXPECT_EQ(Judge(*rule, {}, "", 7).score().components().at("tokens"), 7);
  const auto hard = Make("length { max_tokens: 3 }");
  EXPECT_EQ(Judge(*hard, {}, "", 4).score().value(), 0);
  const auto open = Make("length { min_tokens: 3 }");
  EXPECT_EQ(Judge(*open, {}, "", 4000).score().value(), 1);
}

TEST(LengthTest, RequireStopRefusesCutCompletions) {
  const auto rule = Make("length { require_stop: true }");
  EXPECT_EQ(Judge(*rule, {}, "", 3, v1::FINISH_REASON_STOP_STRING).score().value(), 1);
  EXPECT_EQ(Judge(*rule, {}, "", 3, v1::FINISH_REASON_LENGTH).score().value(), 0);
  EXPECT_EQ(Judge(*rule, {}, "", 3, v1::FINISH_REASON_CONTEXT).score().value(), 0);
  EXPECT_EQ(Judge(*rule, {}, "", 3, v1::FINISH_REASON_UNSPECIFIED).score().value(), 0);
}

TEST(ContainsTest, WantsEveryTextAsAWholeWord) {
  const auto rule =
      Make("contains { column: 'answer' texts: 'The end' whole_word: true ignore_case: true }");
  EXPECT_EQ(ScoreOf(*rule, "cat", "A Cat, a hat. the end."), 1);
  EXPECT_EQ(ScoreOf(*rule, "cat", "A caterpillar. The end"), 0);
  EXPECT_EQ(ScoreOf(*rule, "cat", "bobcat scat cat. The end"), 1);
  EXPECT_EQ(ScoreOf(*rule, "caf", "A café. The end"), 0);
  const v1::SampleResult half = Judge(*rule, Row("cat"), "a cat");
  EXPECT_EQ(half.score().value(), 0);
  EXPECT_EQ(half.score().components().at("found"), 0.5);
  EXPECT_EQ(half.score().detail(), "no \"The end\"");
}

TEST(ContainsTest, ReadsListsAndPartsOfWords) {
  const auto rule = Make("contains { column: 'animals' }");
  v1::VerifierGroup row;
  auto* list = (*row.mutable_columns()->mutable_fields())["animals"].mutable_list_value();
  EXPECT_THAT(Judge(*rule, row, "x").error().reason(), HasSubstr("nothing to look for"));
  list->add_values()->set_string_value("cat");
  list->add_values()->set_string_value("dog");
  EXPECT_EQ(Judge(*rule, row, "dogs and cats").score().value(), 1);
  EXPECT_EQ(Judge(*rule, row, "Dogs and cats").score().value(), 0);
}

TEST(MakeRuleTest, RefusesWhatIsNoRule) {
  EXPECT_EQ(MakeError("remote { address: 'x:1' }").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(MakeError("name: 'x'").message()), HasSubstr("needs one of exact_match"));
}

}  // namespace
}  // namespace rollcall::reward
