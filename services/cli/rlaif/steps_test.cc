#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/config/run_config.h"
#include "services/cli/rlaif/answers.h"
#include "services/cli/rlaif/fake_generator.h"
#include "services/cli/rlaif/judgements.h"
#include "services/cli/rlaif/revisions.h"
#include "services/cli/rlaif/step_progress.h"

namespace rollcall::cli {
namespace {

using ::testing::AllOf;
using testing::FakeGenerator;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr char kRules[] = R"(name: manners
principles:
  - name: polite
    critique: "C1 {prompt}|{answer}|"
    revision: "R1 {prompt}|{answer}|{critique}|"
    judgement: "J1 {prompt}|{answer_a}|{answer_b}|"
  - name: brief
    weight: 3
    critique: "C2 {prompt}|{answer}|"
    revision: "R2 {prompt}|{answer}|{critique}|"
    judgement: "J2 {prompt}|{answer_a}|{answer_b}|"
)";

v1::RunConfig Config(const std::vector<std::string>& sets = {}) {
  std::vector<std::string> all = {"stage=rlaif", "model.path=/models/policy",
                                  "data.train=[{path: prompts.jsonl}]",
                                  "rlaif.constitution=rules.yaml"};
  all.insert(all.end(), sets.begin(), sets.end());
  const auto config = config::LoadRunConfig("", all);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(v1::RunConfig());
}

ChainPrompts Prompts(const std::vector<std::string>& texts) {
  ChainPrompts prompts;
  for (const std::string& text : texts) {
    prompts.rows.push_back({.token_ids = {text.begin(), text.end()}, .text = text, .column = text});
  }
  return prompts;
}

// Does a step's work item by item in this thread.
class StepRun {
 public:
  StepRun(FakeGenerator& generator, const SamplingStep& step, uint32_t context = 1000)
      : client_({generator.channel()}, generator.tokenizer(), calls_, {}) {
    const ServedModel model{client_, *generator.tokenizer(), context};
    for (const uint64_t item : step.Items()) {
      SamplingStep::Parts& parts = items[item];
      const absl::Status worked = step.Work(item, {}, model, [&](Json part) {
        parts.push_back(std::move(part));
        return true;
      });
      EXPECT_TRUE(worked.ok()) << worked;
      EXPECT_TRUE(step.Complete(parts));
    }
    output = step.Conclude(items);
  }

  std::vector<Json> Rows(const std::string& file) const {
    std::vector<Json> rows;
    for (const auto& line : absl::StrSplit(output->files.at(file), '\n', absl::SkipEmpty())) {
      rows.push_back(Json::parse(line.begin(), line.end()));
    }
    return rows;
  }

  std::map<uint64_t, SamplingStep::Parts> items;
  absl::StatusOr<StepOutput> output;

 private:
  ActiveCalls calls_;
  GeneratorClient client_;
};

TEST(AnswersStep, CountsWhatWasCutOff) {
  FakeGenerator generator([](const std::string& prompt, uint32_t index) {
    return absl::StrCat(" ", prompt, index, index == 1 ? "$" : "");
  });
  const v1::RunConfig config = Config();
  const ChainPrompts prompts = Prompts({"ab", "toolong", "cd"});
  const AnswersStep step(config, prompts, {}, 2, 4);
  const StepRun run(generator, step, /*context=*/7);
  ASSERT_TRUE(run.output.ok()) << run.output.status();
  EXPECT_EQ(run.output->files.at("answers.jsonl"),
            "{\"prompt_id\":0,\"prompt\":\"ab\",\"answers\":["
            "{\"text\":\" ab0\",\"cut_off\":false,\"tokens\":5},"
            "{\"text\":\" ab1\",\"cut_off\":true,\"tokens\":4}]}\n"
            "{\"prompt_id\":1,\"prompt\":\"toolong\",\"answers\":[]}\n"
            "{\"prompt_id\":2,\"prompt\":\"cd\",\"answers\":["
            "{\"text\":\" cd0\",\"cut_off\":false,\"tokens\":5},"
            "{\"text\":\" cd1\",\"cut_off\":true,\"tokens\":4}]}\n");
  EXPECT_EQ(run.output->summary.at("cut_off"), 2);
  EXPECT_EQ(run.output->summary.at("prompts_that_fill_the_context"), 1);
}

TEST(GroupOf, NoTwoCallsShareTheirNoise) {
  std::set<uint64_t> groups;
  for (const uint8_t step : {1, 2, 4}) {
    for (const uint64_t item : {uint64_t{0}, uint64_t{1}, uint64_t{0xFFFFFFFFFF}}) {
      for (const uint32_t call : {0u, 1u, 31u}) groups.insert(GroupOf(step, item, call));
    }
  }
  EXPECT_EQ(groups.size(), 27u);
  EXPECT_GE(*groups.begin(), uint64_t{1} << 56);
}

TEST(RevisionsStep, WritesDemonstrationsThatSayWhereTheyComeFrom) {
  FakeGenerator critic([](const std::string& prompt, uint32_t) -> std::string {
    if (absl::StartsWith(prompt, "C")) return absl::StrCat(" rude", prompt.substr(1, 1), " ");
    const std::vector<std::string> parts = absl::StrSplit(prompt.substr(3), '|');
    return absl::StrCat(" ", parts[1], "+", parts[2], "\n");
  });
  const auto rules = Constitution::Parse(kRules, "rules");
  ASSERT_TRUE(rules.ok()) << rules.status();
  const v1::RunConfig config = Config({"rlaif.revisions=2", "data.completion_column=answer"});
  const ChainPrompts prompts = Prompts({"hi", "ho", "he"});
  const RevisionsStep step(config, *rules, prompts, {{{.text = " no"}}, {}, {{.text = "nay\n"}}},
                           {});
  const StepRun run(critic, step);
  ASSERT_TRUE(run.output.ok()) << run.output.status();
  const std::vector<Json> rows = run.Rows("sft.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  std::vector<std::string> marks;
  for (uint32_t round = 0; round < 2; ++round) {
    const size_t drawn = DrawPrinciple(config.seed(), 2, round, rules->weights());
    marks.push_back(absl::StrCat("rude", drawn + 1));
    EXPECT_EQ(rows[1].at("rounds").at(round).at("principle"), rules->principle(drawn).name());
  }
  EXPECT_EQ(rows[1].at("answer"), absl::StrCat("nay+", marks[0], "+", marks[1]));
  EXPECT_EQ(rows[1].at("prompt"), "he");
  EXPECT_EQ(rows[1].at("critique"), marks[1]);
  EXPECT_EQ(rows[1].at("original_answer"), "nay\n");
  EXPECT_EQ(rows[1].at("prompt_id"), 2);
  // As the policy's answers follow its prompts.
  EXPECT_TRUE(absl::StartsWith(rows[0].at("answer").get<std::string>(), " no+rude"));
  EXPECT_EQ(run.output->summary.at("revised"), 2);
  EXPECT_EQ(run.output->summary.at("left_out").at("no_answer"), 1);
}

TEST(RevisionsStep, CountsWhatItLeavesOut) {
  FakeGenerator critic([](const std::string& prompt, uint32_t) -> std::string {
    if (absl::StartsWith(prompt, "C")) return "bad";
    if (absl::StrContains(prompt, "empty")) return " \n";
    if (absl::StrContains(prompt, "endless")) return "on and on$";
    return "fine";
  });
  const auto rules = Constitution::Parse(kRules, "rules");
  const v1::RunConfig config = Config();
  const ChainPrompts prompts = Prompts({"p", "p", "p", "p"});
  const RevisionsStep step(config, *rules, prompts,
                           {{{.text = "fine"}},
                            {{.text = "empty"}},
                            {{.text = "endless"}},
                            {{.text = std::string(60, 'x')}}},
                           {});
  const StepRun run(critic, step, /*context=*/50);
  ASSERT_TRUE(run.output.ok()) << run.output.status();
  EXPECT_EQ(run.Rows("sft.jsonl").size(), 1u);
  const Json& summary = run.output->summary;
  EXPECT_EQ(summary.at("unchanged"), 1);
  EXPECT_EQ(summary.at("left_out").dump(), R"({"no_answer":0,"cut_off":1,"empty":1,"too_long":1})");
  EXPECT_EQ(
      summary.at("drawn").at("polite").get<int>() + summary.at("drawn").at("brief").get<int>(), 1);
}

TEST(RevisionsStep, ResumesBetweenRounds) {
  FakeGenerator critic([](const std::string&, uint32_t) -> std::string { return "again"; });
  const auto rules = Constitution::Parse(kRules, "rules");
  const v1::RunConfig config = Config({"rlaif.revisions=3"});
  const ChainPrompts prompts = Prompts({"p"});
  const RevisionsStep step(config, *rules, prompts, {{{.text = "a"}}}, {});
  ActiveCalls calls;
  const GeneratorClient client({critic.channel()}, critic.tokenizer(), calls, {});
  int parts = 0;
  const absl::Status worked = step.Work(
      0, {Json::parse(R"({"revision": "first"})"), Json::parse(R"({"revision": "second"})")},
      {client, *critic.tokenizer(), 1000}, [&](Json) { return ++parts > 0; });
  EXPECT_TRUE(worked.ok()) << worked;
  EXPECT_EQ(parts, 1);
  EXPECT_THAT(critic.prompts()[0], HasSubstr("p|second|"));
}

// Likes 'g's, and the place of A by `bias`.
FakeGenerator::Thinks Judge(float bias) {
  return [bias](const std::string& prompt) -> std::map<char, float> {
    const std::vector<std::string> parts = absl::StrSplit(prompt, '|');
    if (parts.size() < 3) return {};
    const auto good = [](const std::string& text) {
      return static_cast<float>(std::count(text.begin(), text.end(), 'g'));
    };
    // The second principle cares half as much, the other way round.
    const float scale = absl::StartsWith(prompt, "J1") ? 1.0F : -0.5F;
    const float odds = scale * (good(parts[1]) - good(parts[2])) + bias;
    return {{'A', -5.0F + odds / 2}, {'B', -5.0F - odds / 2}};
  };
}

TEST(JudgementsStep, PrefersByBothOrdersAndAllPrinciples) {
  const auto rules = Constitution::Parse(absl::StrCat(kRules, "label_a: A\nlabel_b: B\n"), "rules");
  ASSERT_TRUE(rules.ok()) << rules.status();
  const v1::RunConfig config = Config({"rlaif.min_log_odds=0.2"});
  const ChainPrompts prompts = Prompts({"p", "q"});
  const JudgementsStep step(config, *rules, prompts,
                            {{{.text = " ggg"},
                              {.text = " h"},
                              {.text = "h "},
                              {.text = ""},
                              {.text = "i", .cut_off = true}},
                             {{.text = "g"}, {.text = "gg"}}},
                            {});
  for (const float bias : {0.0F, 2.0F}) {
    FakeGenerator judge([](const std::string&, uint32_t) { return ""; }, Judge(bias));
    const StepRun run(judge, step);
    ASSERT_TRUE(run.output.ok()) << run.output.status();
    // (1 · 3 + 3 · (−1.5)) / 4 for the first pair, (1 · (−1) + 3 · 0.5) / 4 for the last.
    const std::vector<Json> rows = run.Rows("judgements.jsonl");
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_NEAR(rows[0].at("log_odds").get<double>(), -0.375, 1e-6);
    EXPECT_NEAR(rows[1].at("log_odds").get<double>(), 0.125, 1e-6);
    const std::vector<Json> pairs = run.Rows("pairs.jsonl");
    ASSERT_EQ(pairs.size(), 1u);
    EXPECT_EQ(pairs[0].at("prompt"), "p");
    EXPECT_EQ(pairs[0].at("chosen"), " h");
    EXPECT_EQ(pairs[0].at("rejected"), " ggg");
    EXPECT_NEAR(pairs[0].at("preference").get<double>(), PreferenceOf(0.375), 1e-6);
    const Json& summary = run.output->summary;
    EXPECT_EQ(summary.at("left_out").dump(),
              R"({"cut_off":1,"empty":1,"equal":1,"too_long":0,"undecided":1})");
    EXPECT_EQ(summary.at("pairs"), 5);
    EXPECT_EQ(summary.at("judgements"), 4);
    EXPECT_NEAR(summary.at("position_bias_nats").get<double>(), bias, 1e-6);
    EXPECT_NEAR(summary.at("orders_agree").get<double>(), bias == 0 ? 1 : 0.25, 1e-6);
    EXPECT_EQ(judge.calls(), 8);
  }
}

TEST(JudgementsStep, NothingLeftIsAnErrorThatSaysWhy) {
  const auto rules = Constitution::Parse(absl::StrCat(kRules, "label_a: A\nlabel_b: B\n"), "rules");
  const v1::RunConfig config = Config();
  const ChainPrompts prompts = Prompts({"p"});
  const JudgementsStep step(config, *rules, prompts, {{{.text = "g"}, {.text = "gg"}}}, {});
  FakeGenerator judge([](const std::string&, uint32_t) { return ""; }, Judge(0));
  const StepRun run(judge, step, /*context=*/5);
  EXPECT_EQ(run.output.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(run.output.status().message(),
              AllOf(HasSubstr("no preference is left"), HasSubstr("too_long 1")));
}

TEST(FormatProgress, SaysHowFarAndHowLong) {
  EXPECT_EQ(FormatProgress("2-revisions", 6, 24, 0, absl::Seconds(10)),
            "2-revisions  [######..................] 6/24  0:30 left");
  EXPECT_EQ(FormatProgress("x", 24, 24, 0, absl::Seconds(10)),
            "x  [########################] 24/24");
  EXPECT_EQ(
      FormatSummary({{"kept", 3}, {"weights", "ab"}, {"left_out", {{"equal", 1}}}, {"f", 0.5}}),
      "kept 3, left_out (equal 1), f 0.5");
}

}  // namespace
}  // namespace rollcall::cli
