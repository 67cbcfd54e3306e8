#include "common/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <ctime>

#include "common/text/text_test_data.h"
#include "nlohmann/json.hpp"

namespace rollcall::text {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr char kMessages[] =
    R"([{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yo"}])";

absl::StatusOr<std::string> Render(std::string_view source, const ChatTemplateOptions& options = {},
                                   std::string_view messages = kMessages) {
  auto compiled = ChatTemplate::Compile(source, {{"bos_token", "<s>"}});
  if (!compiled.ok()) return compiled.status();
  auto chat = (*compiled)->Render(messages, options);
  if (!chat.ok()) return chat.status();
  return chat->text;
}

ChatTemplateOptions Variables(std::string_view json) {
  ChatTemplateOptions options;
  options.extra_variables_json = json;
  return options;
}

TEST(ChatTemplateTest, TrimsBlocksAndKeepsWhatIsPrinted) {
  EXPECT_EQ(Render("{{ bos_token }}{% for m in messages %}\n"
                   "    {% if m.role == 'user' %}\n"
                   "[{{ m['content'].strip() }}]\n"
                   "    {% endif %}\n"
                   "{% endfor %}\n")
                .value(),
            "<s>[hi]\n");
}

TEST(ChatTemplateTest, LoopControlsAndPythonMethods) {
  EXPECT_EQ(Render("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ "
                   "m.content.upper() }}"
                   "{% break %}{% endfor %}{{ 'a-b'.split('-')[1] }}{% for k, v in "
                   "messages[1].items() %}{{ k }};"
                   "{% endfor %}")
                .value(),
            "YOb"
            "role;content;");
}

// Each expected value is CPython's.
TEST(ChatTemplateTest, PythonsStringMethods) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"'<a>b'.removeprefix('<a>')", "b"},
      {"'ab'.removesuffix('c')", "ab"},
      {"'a=b=c'.partition('=')", "['a', '=', 'b=c']"},
      {"'a=b=c'.rpartition('=')", "['a=b', '=', 'c']"},
      {"'abc'.rpartition('=')", "['', '', 'abc']"},
      {"'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"},
      {"' a  b c '.rsplit()", "['a', 'b', 'c']"},
      {"' a  b c '.rsplit(none, 1)", "[' a  b', 'c']"},
      {"'ab'.ljust(4, '.')", "ab.."},
      {"'ab'.rjust(4)", "  ab"},
      {"'ab'.center(5, '*')", "**ab*"},
      {"'abc'.center(6, '*')", "*abc**"},
      {"'-7'.zfill(4)", "-007"},
      {"'aBc'.swapcase()", "AbC"},
      {"'ééa'.index('a')", "2"},
      {"'abab'.rindex('ab')", "2"},
      {"['a', 'b'].index('b')", "1"},
      {"'a b'.title()", "A B"},
      {"'abc'.startswith(('x', 'a'))", "True"},
      {"'a-b'.replace('-', '+').split('+')", "['a', 'b']"},
      {"'x\\ny'.splitlines()", "['x', 'y']"},
      {"'xxaxx'.strip('x')", "a"},
  };
  for (const auto& [expression, expected] : cases) {
    const auto text = Render("{{ " + expression + " }}");
    EXPECT_EQ(text.value_or(std::string(text.status().message())), expected) << expression;
  }
  EXPECT_THAT(std::string(Render("{{ 'a'.index('b') }}").status().message()),
              HasSubstr("substring not found"));
  EXPECT_FALSE(Render("{{ 'a'.no_such_method() }}").ok());
}

TEST(ChatTemplateTest, PrintsValuesAsPythonDoes) {
  const auto options = Variables(R"({"v": [true, null, 1.0, 1e16, 1e-7, "it's", {"a": "b\n"}]})");
  EXPECT_EQ(
      Render("{{ v }}|{{ v[0] }}|{{ v[1] }}|{{ v[2] }}|{{ nothing }}|{{ v[0]|string }}", options)
          .value(),
      R"([True, None, 1.0, 1e+16, 1e-07, "it's", {'a': 'b\n'}]|True|None|1.0||True)");
}

TEST(ChatTemplateTest, ToJsonSpacesAsJsonDumps) {
  const auto options = Variables(R"({"v": {"z": [1, 2.5, "é<&>\t"], "a": {}, "e": []}})");
  EXPECT_EQ(Render("{{ v|tojson }}", options).value(),
            R"({"z": [1, 2.5, "é<&>\t"], "a": {}, "e": []})");
  EXPECT_EQ(Render("{{ v|tojson(indent=2) }}", options).value(),
            "{\n  \"z\": [\n    1,\n    2.5,\n    \"é<&>\\t\"\n  ],\n  \"a\": {},\n  \"e\": []\n}");
  EXPECT_EQ(
      Render("{{ v|tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}", options)
          .value(),
      R"({"a":{},"e":[],"z":[1,2.5,"\u00e9<&>\t"]})");
  EXPECT_THAT(std::string(Render("{{ nothing|tojson }}").status().message()),
              HasSubstr("undefined"));
}

TEST(ChatTemplateTest, RaiseExceptionBecomesTheStatus) {
  const absl::Status status = Render("{{ raise_exception('roles must alternate') }}").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("roles must alternate"));
}

TEST(ChatTemplateTest, ALoopOverNoneIsAnError) {
  EXPECT_THAT(std::string(Render("{% for t in tools %}x{% endfor %}").status().message()),
              HasSubstr("'NoneType' object is not iterable"));
  EXPECT_EQ(
      Render("{% for t in tools or [] %}x{% endfor %}{% for t in nothing %}x{% endfor %}.").value(),
      ".");
}

TEST(ChatTemplateTest, ReportsGenerationBlocks) {
  const auto compiled =
      ChatTemplate::Compile(
          "{% for m in messages %}<{{ m.role }}>{%- if m.role == 'assistant' -%}\n"
          "  {%- generation -%}  é{{ m.content }}. {%- endgeneration %}{%- endif %}{% endfor %}!",
          {})
          .value();
  const RenderedChat chat = compiled->Render(kMessages, {}).value();
  EXPECT_EQ(chat.text, "<user><assistant>éyo.!");
  ASSERT_EQ(chat.generation_spans.size(), 1u);
  EXPECT_EQ(chat.text.substr(chat.generation_spans[0].begin,
                             chat.generation_spans[0].end - chat.generation_spans[0].begin),
            "éyo.");
  // A message cannot forge a span.
  EXPECT_EQ(
      compiled->Render(R"([{"role": "assistant", "content": "\ufdd0x"}])", {}).status().code(),
      absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, ContinuesTheFinalMessage) {
  ChatTemplateOptions options;
  options.continue_final_message = true;
  constexpr char kOpen[] = R"([{"role": "assistant", "content": "so far "}])";
  EXPECT_EQ(Render("{{ messages[0].content }}<end>", options, kOpen).value(), "so far ");
  EXPECT_EQ(Render("{{ messages[0].content.strip() }}<end>", options, kOpen).value(), "so far");
  EXPECT_FALSE(Render("nothing", options, kOpen).ok());
  options.add_generation_prompt = true;
  EXPECT_FALSE(Render("{{ messages[0].content }}", options, kOpen).ok());
}

TEST(ChatTemplateTest, RefusesWhatIsNoChat) {
  EXPECT_EQ(Render("", {}, "{}").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Render("", {}, "[1]").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Render("", {}, "[").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(Render("a\n{% if %}").status().message()), HasSubstr("chat_template:2"));
}

// Every published template of the golden set, against transformers' own rendering.
class GoldenTemplateTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTemplateTest, RendersAsTransformers) {
  if (TestData().empty()) GTEST_SKIP() << "no test data (ROLLCALL_TEST_DATA)";
  // The recorded clock has no zone: read it as UTC and render in UTC.
  setenv("TZ", "UTC", 1);
  tzset();
  const auto folder = TestData() / "golden/text/templates";
  const ordered_json chats = ordered_json::parse(Contents(folder / "conversations.json"));
  const ordered_json golden =
      ordered_json::parse(Contents(folder / (std::string(GetParam()) + ".json")));
  absl::Time now;
  ASSERT_TRUE(absl::ParseTime("%Y-%m-%dT%H:%M:%S", chats["now"].get<std::string>(), &now, nullptr));
  const auto compiled =
      ChatTemplate::Compile(Contents(folder / (std::string(GetParam()) + ".jinja")),
                            golden["special_tokens"].get<std::map<std::string, std::string>>());
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  ASSERT_GE(golden["renders"].size(), 20u);
  for (const ordered_json& render : golden["renders"]) {
    ordered_json shown = render;
    shown.erase("expected");
    SCOPED_TRACE(shown.dump());
    ChatTemplateOptions options;
    options.now = now;
    options.add_generation_prompt = render.value("add_generation_prompt", false);
    options.continue_final_message = render.value("continue_final_message", false);
    if (render.value("tools", false)) options.tools_json = chats["tools"].dump();
    if (render.contains("kwargs")) options.extra_variables_json = render["kwargs"].dump();
    const std::string messages =
        chats["conversations"][render["conversation"].get<std::string>()].dump();
    const auto chat = (*compiled)->Render(messages, options);
    if (render.contains("error")) {
      EXPECT_FALSE(chat.ok()) << chat->text;
      continue;
    }
    ASSERT_TRUE(chat.ok()) << chat.status();
    EXPECT_EQ(chat->text, render["expected"].get<std::string>());
    if (!render.contains("generation_spans")) continue;
    ordered_json spans = ordered_json::array();
    for (const auto& span : chat->generation_spans) {
      const auto characters = [&](size_t bytes) {
        return std::count_if(chat->text.begin(), chat->text.begin() + bytes,
                             [](char c) { return (c & 0xC0) != 0x80; });
      };
      spans.push_back({characters(span.begin), characters(span.end)});
    }
    EXPECT_EQ(spans, render["generation_spans"]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTemplateTest,
                         ::testing::Values("deepseek-r1-distill-qwen", "gemma-2", "gemma-3",
                                           "glm-4.6", "gpt-oss", "granite-3.3", "hermes-3", "lfm2",
                                           "llama-3", "llama-3-training", "llama-3.1",
                                           "mistral-nemo", "phi-3.5", "qwen2.5", "qwen3",
                                           "qwen3-training", "smollm3"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           for (char& c : name)
                             c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

}  // namespace
}  // namespace rollcall::text
