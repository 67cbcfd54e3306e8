#include "services/cli/rlaif/constitution.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace rollcall::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kRules[] = R"(name: manners
critique_frame: "Q {prompt}\nA {answer}\n{request}\nCritique:"
judgement_frame: "Q {prompt}\n(A) {answer_a}\n(B) {answer_b}\n{request} Answer:"
principles:
  - name: polite
    weight: 3
    critique: Is it polite?
    revision: "{critique} So be {principle}. Instead of {answer}, to {prompt}:"
    judgement: Which is more polite?
  - name: brief
    critique: Is {answer} brief?
    revision: "Shorten {answer}:"
    judgement: Which is shorter?
)";

absl::Status Refused(const std::string& yaml) {
  return Constitution::Parse(yaml, "rules.yaml").status();
}

std::string Changed(const std::string& from, const std::string& to) {
  const std::string text = absl::StrReplaceAll(kRules, {{from, to}});
  EXPECT_NE(text, kRules) << from;
  return text;
}

TEST(PromptTemplate, RendersValuesAndBraces) {
  constexpr std::string_view kKnown[] = {"answer", "prompt"};
  const auto parsed = PromptTemplate::Parse("{{{answer}}} {prompt}{prompt}", kKnown);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->Render({{"answer", "{prompt}"}, {"prompt", "p"}}), "{{prompt}} pp");
  EXPECT_EQ(parsed->Render({}), "{} ");
  EXPECT_TRUE(parsed->Has("answer"));
  EXPECT_FALSE(parsed->Has("critique"));
}

TEST(PromptTemplate, RefusesWhatItDoesNotUnderstand) {
  constexpr std::string_view kKnown[] = {"answer", "prompt"};
  const auto message = [&](std::string_view text) {
    return std::string(PromptTemplate::Parse(text, kKnown).status().message());
  };
  EXPECT_THAT(message("{anser}"), HasSubstr("unknown placeholder {anser}; did you mean {answer}?"));
  EXPECT_THAT(message("{zzzzzz}"), HasSubstr("expected one of {answer}, {prompt}"));
  EXPECT_THAT(message("a { b"), HasSubstr("a single \"{\""));
  EXPECT_THAT(message("a } b"), HasSubstr("a single \"}\""));
  EXPECT_THAT(message("{answer{prompt}"), HasSubstr("a single \"{\""));
  EXPECT_THAT(message(" \n "), HasSubstr("is empty"));
  EXPECT_THAT(message(""), HasSubstr("is empty"));
}

TEST(Constitution, RendersRequestsInTheirFrames) {
  const auto rules = Constitution::Parse(kRules, "rules.yaml");
  ASSERT_TRUE(rules.ok()) << rules.status();
  EXPECT_EQ(rules->name(), "manners");
  EXPECT_THAT(rules->weights(), ::testing::ElementsAre(3, 1));
  EXPECT_EQ(rules->label_a(), " A");
  EXPECT_EQ(rules->Critique(0, "hi ", " {answer} ").text,
            "Q hi\nA {answer}\nIs it polite?\nCritique:");
  EXPECT_EQ(rules->Critique(1, "hi", "no").text, "Q hi\nA no\nIs no brief?\nCritique:");
  EXPECT_EQ(rules->Revision(0, "hi", "no", " Rude.\n").text,
            "Rude. So be polite. Instead of no, to hi:");
  EXPECT_EQ(rules->Judgement(1, "hi", "no", "yes").text,
            "Q hi\n(A) no\n(B) yes\nWhich is shorter? Answer:");
}

TEST(Constitution, ShowsExamplesFirst) {
  const std::string with_examples =
      absl::StrCat(kRules,
                   "revision_examples:\n"
                   "  - {prompt: p, answer: a, critique: ' c', revision: ' r', principle: brief}\n"
                   "judgement_examples:\n"
                   "  - {prompt: p, answer_a: x, answer_b: y, better: b}\n"
                   "separator: \"|\"\n");
  const auto rules = Constitution::Parse(with_examples, "rules.yaml");
  ASSERT_TRUE(rules.ok()) << rules.status();
  EXPECT_EQ(rules->Critique(0, "hi", "no").text,
            "Q p\nA a\nIs a brief?\nCritique: c|Q hi\nA no\nIs it polite?\nCritique:");
  EXPECT_EQ(rules->Revision(1, "hi", "no", "long").text, "Shorten a: r|Shorten no:");
  EXPECT_EQ(rules->Judgement(0, "hi", "1", "2").text,
            "Q p\n(A) x\n(B) y\nWhich is more polite? Answer: B|"
            "Q hi\n(A) 1\n(B) 2\nWhich is more polite? Answer:");

  const auto chat =
      Constitution::Parse(absl::StrCat(with_examples, "format: chat\n"), "rules.yaml");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->label_b(), "B");
  const auto messages = nlohmann::json::parse(chat->Judgement(0, "hi", "1", "2").messages_json);
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[1]["role"], "assistant");
  EXPECT_EQ(messages[1]["content"], "B");
  EXPECT_EQ(messages[2]["content"], "Q hi\n(A) 1\n(B) 2\nWhich is more polite? Answer:");
}

TEST(Constitution, NamesFileLineAndFieldOfEveryFault) {
  const auto message = [](const std::string& from, const std::string& to) {
    return std::string(Refused(Changed(from, to)).message());
  };
  EXPECT_EQ(Refused(Changed("name: brief", "name: polite")).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(message("name: brief", "name: polite"),
              HasSubstr("rules.yaml:10: principles[1].name: \"polite\" is also the name of "
                        "principles[0]"));
  EXPECT_THAT(message("Is {answer} brief?", "Is {anser} brief?"),
              HasSubstr("rules.yaml:11: principles[1].critique: unknown placeholder {anser}"));
  // A critique cannot show what comes of it.
  EXPECT_THAT(message("Is {answer} brief?", "Is {critique} brief?"),
              HasSubstr("principles[1].critique: unknown placeholder {critique}"));
  EXPECT_THAT(
      message("Shorten {answer}:", "Shorten:"),
      HasSubstr("rules.yaml:12: principles[1].revision: neither it nor revision_frame shows "
                "{answer}"));
  EXPECT_THAT(message("(B) {answer_b}", "(B)"),
              AllOf(HasSubstr("principles[0].judgement: neither it nor judgement_frame shows "
                              "{answer_b}"),
                    HasSubstr("principles[1].judgement")));
  EXPECT_THAT(message("{request}\\nCritique", "Critique"),
              HasSubstr("rules.yaml:2: critique_frame: needs {request}"));
  EXPECT_THAT(message("name: manners", "label_a: ' B'\nname: manners"),
              HasSubstr("label_b: is the same as label_a"));
  EXPECT_THAT(message("weight: 3", "weight: 0"), HasSubstr("principles[0].weight: must be > 0"));
  EXPECT_THAT(message("    critique: Is it polite?\n", ""),
              HasSubstr("principles[0].critique: required, and not given"));
  EXPECT_THAT(message("name: manners", "name: manners\nprincples: []"),
              HasSubstr("princples: unknown field; did you mean principles?"));
}

TEST(Constitution, RefusesEmptyListsAndUnknownExamples) {
  EXPECT_THAT(Refused("name: none\nprinciples: []\n").message(), HasSubstr("principles"));
  EXPECT_THAT(Refused("name: none\n").message(), HasSubstr("principles"));
  EXPECT_THAT(Refused("").message(), HasSubstr("name: required"));
  EXPECT_THAT(Refused(absl::StrCat(kRules,
                                   "revision_examples:\n"
                                   "  - {prompt: p, answer: a, critique: c, revision: r, "
                                   "principle: kind}\n"))
                  .message(),
              HasSubstr("revision_examples[0].principle: no principle has the name \"kind\""));
  EXPECT_EQ(Constitution::Load("/nowhere/rules.yaml").status().code(), absl::StatusCode::kNotFound);
}

TEST(Constitution, EveryShippedOneLoads) {
  const char* source = std::getenv("ROLLCALL_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  int seen = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(source) + "/configs/constitutions")) {
    ++seen;
    const auto rules = Constitution::Load(entry.path().string());
    ASSERT_TRUE(rules.ok()) << rules.status();
    for (size_t i = 0; i < rules->size(); ++i) {
      const FeedbackPrompt prompt = rules->Judgement(i, "PROMPT", "ONE", "TWO");
      EXPECT_THAT(prompt.text + prompt.messages_json,
                  AllOf(HasSubstr("PROMPT"), HasSubstr("ONE"), HasSubstr("TWO")));
      EXPECT_THAT(prompt.text, Not(HasSubstr("{request}")));
    }
  }
  EXPECT_GE(seen, 2);
}

}  // namespace
}  // namespace rollcall::cli
