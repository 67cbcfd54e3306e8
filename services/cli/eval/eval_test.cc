#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "common/base/file.h"
#include "services/cli/eval/sample_log.h"
#include "services/cli/eval/statistics.h"
#include "services/cli/eval/verifier_spec.h"

namespace rollcall::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

Judged Sample(double reward, const std::string& answer) { return {reward, reward >= 1, answer}; }

TEST(StatisticsTest, PassAtIsTheUnbiasedEstimator) {
  // 1 of 4 passes: 2 drawn of 4 hold it in 3 of 6 ways; 3 of 4 in 3 of 4 ways.
  EXPECT_DOUBLE_EQ(PassAt(4, 1, 1), 0.25);
  EXPECT_DOUBLE_EQ(PassAt(4, 1, 2), 0.5);
  EXPECT_DOUBLE_EQ(PassAt(4, 1, 3), 0.75);
  EXPECT_DOUBLE_EQ(PassAt(4, 1, 4), 1);
  EXPECT_DOUBLE_EQ(PassAt(5, 2, 2), 0.7);  // 1 - C(3, 2) / C(5, 2)
  EXPECT_DOUBLE_EQ(PassAt(7, 0, 7), 0);
  EXPECT_NEAR(PassAt(1024, 1, 8), 8.0 / 1024, 1e-12);
}

TEST(StatisticsTest, TheMajoritysAnswerCountsAndTiesShare) {
  EXPECT_DOUBLE_EQ(
      MajorityPass(std::vector<Judged>{Sample(1, "4"), Sample(0, "5"), Sample(1, "4")}), 1);
  EXPECT_DOUBLE_EQ(
      MajorityPass(std::vector<Judged>{Sample(1, "4"), Sample(0, "5"), Sample(0, "5")}), 0);
  EXPECT_DOUBLE_EQ(MajorityPass(std::vector<Judged>{Sample(1, "4"), Sample(0, "5")}), 0.5);
}

TEST(StatisticsTest, MeansAreOverPromptsAndLeaveOutWhatNobodyJudged) {
  const Judged unjudged{std::nullopt, false, ""};
  const EvaluationFigures figures = Summarize({{Sample(1, "a"), Sample(0, "b"), Sample(0, "b")},
                                               {Sample(1, "a"), Sample(1, "a"), Sample(1, "a")},
                                               {unjudged, unjudged, unjudged}});
  EXPECT_EQ(figures.prompts, 2u);
  EXPECT_EQ(figures.samples, 6u);
  EXPECT_EQ(figures.unjudged, 3u);
  EXPECT_DOUBLE_EQ(figures.mean_reward, 2.0 / 3);
  // Prompt means 1/3 and 1: deviation sqrt(2)/3, over sqrt(2).
  EXPECT_NEAR(figures.standard_error, 1.0 / 3, 1e-12);
  EXPECT_NEAR(figures.pass_standard_error, 1.0 / 3, 1e-12);
  EXPECT_DOUBLE_EQ(figures.majority, 0.5);
  ASSERT_EQ(figures.pass_at.size(), 3u);  // 1, 2, 3
  EXPECT_THAT(figures.pass_at[0], Pair(1, ::testing::DoubleNear(2.0 / 3, 1e-12)));
  EXPECT_THAT(figures.pass_at[1], Pair(2, ::testing::DoubleNear((2.0 / 3 + 1) / 2, 1e-12)));
  EXPECT_THAT(figures.pass_at[2], Pair(3, ::testing::DoubleNear(1, 1e-12)));
  EXPECT_EQ(Summarize({}).prompts, 0u);
}

TEST(VerifierSpecTest, BecomesConfigurationOverrides) {
  const std::vector<std::string> specs = {"exact_match,after=####,weight=2", "length"};
  EXPECT_THAT(
      VerifierOverrides(specs).value(),
      ElementsAre("reward.verifiers[0].name=exact_match", "reward.verifiers[0].exact_match={}",
                  "reward.verifiers[0].exact_match.after=####", "reward.verifiers[0].weight=2",
                  "reward.verifiers[1].name=length", "reward.verifiers[1].length={}"));
  for (const char* bad : {"", "name=x", "length,5", "length,=5"}) {
    EXPECT_EQ(VerifierOverrides(std::vector<std::string>{bad}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

TEST(VerifierSpecTest, TheAnswerIsWhatTheFirstComparingVerifierFound) {
  v1::RewardSection reward;
  reward.add_verifiers()->set_name("short");
  reward.mutable_verifiers(0)->mutable_length();
  EXPECT_EQ(AnswerOf(reward, "short: 3 tokens", " so 4 "), "so 4");
  v1::VerifierConfig* judge = reward.add_verifiers();
  judge->set_name("right");
  judge->mutable_numeric_answer();
  reward.add_verifiers()->set_name("also");
  reward.mutable_verifiers(2)->mutable_length();
  EXPECT_EQ(AnswerOf(reward, "short: 3 tokens; right: 4; also: 3 tokens", "so 4"), "4");
  EXPECT_EQ(AnswerOf(reward, "right: 4", "so 4"), "4");
  EXPECT_EQ(AnswerOf(reward, "short: 3 tokens", "so 4"), "so 4");
}

class SampleLogTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove(path_); }

  static EvaluatedSample Of(uint64_t prompt, uint32_t sample) {
    return {.prompt = prompt,
            .sample = sample,
            .text = "é\n\xff",
            .answer = "4",
            .reward = sample == 0 ? std::optional<double>(0.1) : std::nullopt,
            .components = {{"a", 0.5}},
            .detail = "d",
            .tokens = 3,
            .finish_reason = "length"};
  }

  const std::string path_ = ::testing::TempDir() + "/cli_eval_samples.jsonl";
};

TEST_F(SampleLogTest, GoesOnWithWholePromptsOfTheSameEvaluation) {
  {
    const auto log = SampleLog::Open(path_, "e", 2).value();
    EXPECT_TRUE(log->TakeFinished().empty());
    ASSERT_TRUE(log->Append({Of(7, 0), Of(7, 1)}).ok());
    ASSERT_TRUE(log->Append({Of(3, 0), Of(3, 1)}).ok());
  }
  const std::string whole = ReadFile(path_).value();
  // Torn inside the last line.
  std::ofstream(path_, std::ios::binary) << whole.substr(0, whole.size() - 5);
  const auto log = SampleLog::Open(path_, "e", 2).value();
  const auto finished = log->TakeFinished();
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_EQ(finished.at(7)[0].reward, 0.1);
  EXPECT_EQ(finished.at(7)[1].reward, std::nullopt);
  EXPECT_EQ(finished.at(7)[1].components.at("a"), 0.5);
  ASSERT_TRUE(log->Append({Of(3, 0), Of(3, 1)}).ok());
  EXPECT_EQ(ReadFile(path_).value(), whole);
}

TEST_F(SampleLogTest, RefusesAnotherEvaluationsFile) {
  ASSERT_TRUE(SampleLog::Open(path_, "e", 1).value()->Append({Of(0, 0)}).ok());
  const absl::Status other = SampleLog::Open(path_, "f", 1).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.message()), HasSubstr(path_ + ":1: belongs to another evaluation"));
  std::ofstream(path_, std::ios::binary) << "{\"prompt\": 1}\n";
  EXPECT_EQ(SampleLog::Open(path_, "e", 1).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace rollcall::cli
