#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/text/chat_template.h"
#include "common/text/crate/rollcall_text.h"
#include "common/text/crate_buffer.h"

namespace rollcall::text {
namespace {

using ::testing::HasSubstr;

constexpr char kMessage[] = R"([{"role": "user", "content": "abcdefgh"}])";

// What rendering `source` for one message gives: never a crash, and soon.
absl::Status Outcome(const std::string& source) {
  const absl::Time begin = absl::Now();
  const auto chat = ChatTemplate::Compile(source, {}, "m/chat_template.jinja");
  const absl::Status status = chat.ok() ? (*chat)->Render(kMessage, {}).status() : chat.status();
  // Two seconds on an idle machine at the very most; this one may be busy or instrumented.
  EXPECT_LT(absl::Now() - begin, absl::Seconds(60)) << source.substr(0, 80);
  return status;
}

std::string Refusal(const std::string& source) {
  const absl::Status status = Outcome(source);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << source.substr(0, 80);
  EXPECT_THAT(std::string(status.message()), HasSubstr("m/chat_template.jinja: "));
  return std::string(status.message());
}

std::string Repeat(const std::string& piece, size_t times) {
  std::string text;
  for (size_t i = 0; i < times; ++i) text += piece;
  return text;
}

TEST(ChatTemplateLimitsTest, TemplatesThatDoNotEndAreRefused) {
  std::string loops = "x";
  for (int i = 0; i < 8; ++i) {
    loops = "{% for i" + std::to_string(i) + " in range(1000) %}" + loops + "{% endfor %}";
  }
  EXPECT_THAT(Refusal(loops), HasSubstr("more than 10000000 instructions"));
  // Calls nest up to a limit, and their number is bounded too.
  EXPECT_THAT(Refusal("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"),
              HasSubstr("recursion"));
  EXPECT_THAT(Refusal("{% macro f(n) %}{% if n < 40 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}"
                      "{% endmacro %}{{ f(0) }}"),
              HasSubstr("more than 10000000 instructions"));
  EXPECT_FALSE(Refusal("{% include 'chat_template' %}").empty());
  EXPECT_FALSE(Refusal("{% extends 'chat_template' %}").empty());
  EXPECT_FALSE(Refusal("{% import 'chat_template' as c %}{{ c }}").empty());
  EXPECT_FALSE(Refusal("{% for i in range(1000000000) %}{% endfor %}").empty());
}

// Each of these would take every byte of the machine, and leaves the 256 MiB it was allowed with its
// sleeping thread.
TEST(ChatTemplateLimitsTest, MemoryIsBoundedWhereAStringDoubles) {
  const std::string message = "rendering takes more than 256 MiB of memory";
  const auto chat = ChatTemplate::Compile(
                        "{% set ns = namespace(x=messages[0].content) %}{% for i in range(60) %}"
                        "{% if grow %}{% set ns.x = ns.x ~ ns.x %}{% endif %}{% endfor %}ok",
                        {})
                        .value();
  ChatTemplateOptions grow;
  grow.extra_variables_json = R"({"grow": true})";
  EXPECT_EQ(chat->Render(kMessage, {}).value().text, "ok");
  EXPECT_THAT(std::string(chat->Render(kMessage, grow).status().message()), HasSubstr(message));
  // From then on the template is not tried again, and others are as before.
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 1000; ++i) {
    EXPECT_THAT(std::string(chat->Render(kMessage, {}).status().message()), HasSubstr(message));
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_TRUE(Outcome("{{ messages[0].content }}").ok());
}

TEST(ChatTemplateLimitsTest, MemoryIsBoundedWhereOneOperationExplodes) {
  // 8 kB × 100 000 in a single filter; a doubling block.
  EXPECT_THAT(Refusal("{{ ([messages[0].content * 1000] * 100000)|join }}"),
              HasSubstr("more than 256 MiB of memory"));
  EXPECT_THAT(Refusal("{% set ns = namespace(x='x' * 99) %}{% for i in range(60) %}"
                      "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}"),
              HasSubstr("more than 256 MiB of memory"));
}

TEST(ChatTemplateLimitsTest, LongTextsAndSourcesAreRefused) {
  EXPECT_THAT(Refusal("{% for i in range(10000) %}{{ 'x' * 10000 }}{% endfor %}"),
              HasSubstr("longer than 64 MiB"));
  EXPECT_FALSE(Refusal("{{ 'x' * 1000000000000 }}").empty());
  EXPECT_THAT(Refusal(std::string((1 << 20) + 1, 'x')), HasSubstr("at most 1048576 are read"));
}

// What nests without end in the source: an error or not, but no overflowing stack.
TEST(ChatTemplateLimitsTest, DeepSourcesDoNotOverflowTheStack) {
  EXPECT_FALSE(Refusal("{{ " + Repeat("(", 100'000) + "1" + Repeat(")", 100'000) + " }}").empty());
  EXPECT_FALSE(Refusal("{{ " + Repeat("[", 100'000)).empty());
  EXPECT_FALSE(Refusal(Repeat("{% if 1 %}", 50'000)).empty());
  const std::vector<std::string> deep = {
      "{{ a" + Repeat("+a", 4'000) + " }}",
      "{{ a" + Repeat("~a", 4'000) + " }}",
      "{{ a" + Repeat(".a", 40'000) + " }}",
      "{{ a" + Repeat("[0]", 40'000) + " }}",
      "{{ a" + Repeat("()", 40'000) + " }}",
      "{{ a" + Repeat("|trim", 40'000) + " }}",
      "{{ " + Repeat("not ", 4'000) + "a }}",
      "{{ " + Repeat("-", 4'000) + "1 }}",
      "{{ " + Repeat("a if b else ", 20'000) + "a }}",
      "{{ a" + Repeat(" and a", 4'000) + " }}",
      "{% if a %}" + Repeat("{% elif a %}", 20'000) + "{% endif %}",
      Repeat("{% for a in b %}", 20'000),
      Repeat("{% filter trim %}", 20'000),
      Repeat("{% generation %}", 20'000),
  };
  for (const std::string& source : deep) {
    const absl::Status status = Outcome(source);
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << source.substr(0, 40) << status;
  }
}

TEST(ChatTemplateLimitsTest, DeepValuesDoNotOverflowTheStack) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% for j in range(100) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
  EXPECT_TRUE(Outcome(nest).ok());
  EXPECT_THAT(Refusal(nest + "{{ ns.x }}"), HasSubstr("nested deeper than 200 levels"));
  EXPECT_THAT(Refusal(nest + "{{ ns.x|tojson }}"), HasSubstr("nested deeper than 200 levels"));
  const absl::Status compared = Outcome(nest + "{{ ns.x == [ns.x] }}{{ ns.x ~ 'a' }}");
  EXPECT_TRUE(compared.ok() || absl::IsInvalidArgument(compared)) << compared;
  // As deep as the instructions allow.
  EXPECT_THAT(
      Refusal("{% set ns = namespace(x=[]) %}" +
              Repeat("{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}", 40)),
      HasSubstr("more than 10000000 instructions"));
}

TEST(ChatTemplateLimitsTest, DeepMessagesAreRefused) {
  const auto chat = ChatTemplate::Compile("{{ messages|tojson }}", {}).value();
  const std::string deep(200'000, '[');
  EXPECT_THAT(std::string(chat->Render(deep, {}).status().message()), HasSubstr("nested deeper"));
  ChatTemplateOptions options;
  options.tools_json = deep;
  EXPECT_THAT(std::string(chat->Render("[]", options).status().message()),
              HasSubstr("tools: nested deeper"));
}

TEST(ChatTemplateLimitsTest, LongChatsAreNot) {
  std::string messages = "[";
  for (int i = 0; i < 2'000; ++i) {
    messages += R"({"role": "user", "content": "What is it?"}, {"role": "assistant", )"
                R"("content": "Nothing much."},)";
  }
  messages.back() = ']';
  const auto chat = ChatTemplate::Compile(
                        "{% set ns = namespace(seen=[]) %}{% for m in messages %}"
                        "{% set ns.seen = ns.seen + [m.role] %}<|{{ m.role }}|>"
                        "{% if m.content is string %}{{ m.content | trim }}{% endif %}"
                        "{% endfor %}{{ ns.seen|length }}",
                        {})
                        .value();
  const auto rendered = chat->Render(messages, {});
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_TRUE(rendered->text.ends_with("Nothing much.4000"));
}

TEST(IsolatedWorkTest, WhatDoesNotEndIsAbandoned) {
  CrateBuffer error;
  const absl::Status status = CrateStatus(rollcall_text_endless_for_test(50, error.out()), error);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("takes longer than 50 ms"));
}

}  // namespace
}  // namespace rollcall::text
