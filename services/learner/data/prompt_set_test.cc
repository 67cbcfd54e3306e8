#include "services/learner/data/prompt_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/learner/data/prompt_source.h"
#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTemplate[] =
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(LoadPrompts, ReadsStringsAndKeepsOtherColumns) {
  const TestFolder folder;
  const std::string path = folder.Write(
      "train.jsonl",
      R"({"prompt": "1+2=", "answer": "3", "level": 2, "tags": ["a", null, true], "meta": {"x": 0.5}})"
      "\r\n\n"
      R"({"prompt": "ab"})");
  v1::DataSection data = DataOf(path);
  const auto set = LoadPrompts(data, data.train(), *folder.Tokenizer());
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->rows.size(), 2u);
  const v1::PromptRow& first = set->rows[0];
  EXPECT_EQ(first.text(), "1+2=");
  EXPECT_THAT(first.token_ids(), ElementsAre(Id('1'), Id('+'), Id('2'), Id('=')));
  const auto& columns = first.columns().fields();
  EXPECT_EQ(columns.size(), 4u);
  EXPECT_EQ(columns.at("answer").string_value(), "3");
  EXPECT_EQ(columns.at("level").number_value(), 2);
  EXPECT_TRUE(columns.at("tags").list_value().values(1).has_null_value());
  EXPECT_TRUE(columns.at("tags").list_value().values(2).bool_value());
  EXPECT_EQ(columns.at("meta").struct_value().fields().at("x").number_value(), 0.5);
  EXPECT_EQ(set->rows[1].row(), 1u);

  data.set_add_special_tokens(true);
  const auto with_special = LoadPrompts(data, data.train(), *folder.Tokenizer());
  ASSERT_TRUE(with_special.ok());
  EXPECT_THAT(with_special->rows[1].token_ids(), ElementsAre(0, Id('a'), Id('b')));
}

TEST(LoadPrompts, RendersMessagesByTheChatTemplate) {
  const TestFolder folder;
  const std::string path =
      folder.Write("train.jsonl", R"({"prompt": [{"role": "user", "content": "1"}], "answer": "2"})"
                                  "\n"
                                  R"({"messages": [{"role": "user", "content": "3"}]})");
  v1::DataSection data = DataOf(path);
  data.set_add_special_tokens(true);  // never on top of a template
  const auto set = LoadPrompts(data, data.train(), *folder.Tokenizer(kTemplate));
  // "u" is not in the vocabulary and encodes to nothing.
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->rows[0].text(), "u:1|a:");
  EXPECT_THAT(set->rows[0].token_ids(), ElementsAre(Id(':'), Id('1'), Id('|'), Id('a'), Id(':')));
  EXPECT_EQ(set->rows[1].text(), "u:3|a:");
  EXPECT_EQ(set->rows[1].columns().fields().size(), 0u);
  ASSERT_EQ(set->rows[1].messages_size(), 1);
  EXPECT_EQ(set->rows[1].messages(0).role(), "user");
  EXPECT_EQ(set->rows[1].messages(0).content(), "3");

  EXPECT_EQ(LoadPrompts(data, data.train(), *folder.Tokenizer()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(LoadPrompts, ErrorsNameFileLineColumnAndExpectation) {
  const TestFolder folder;
  const auto message = [&](const std::string& line) {
    const std::string path = folder.Write("bad.jsonl", "{\"prompt\": \"a\"}\n" + line + "\n");
    const v1::DataSection data = DataOf(path);
    const auto set = LoadPrompts(data, data.train(), *folder.Tokenizer(kTemplate));
    EXPECT_EQ(set.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(Message(set.status()), HasSubstr("bad.jsonl:2: "));
    return Message(set.status());
  };
  EXPECT_THAT(message("{\"prompt\": 3}"),
              HasSubstr("column \"prompt\": expected a string or a list of messages with roles, "
                        "got number 3"));
  EXPECT_THAT(message("{\"text\": \"a\"}"),
              HasSubstr("expected a column \"prompt\", \"messages\" or \"question\", "
                        "the row has: text"));
  EXPECT_THAT(message("{\"prompt\": \"a\""), HasSubstr("not valid JSON"));
  EXPECT_THAT(message("[1]"), HasSubstr("expected a JSON object, got array"));
  EXPECT_THAT(message("{\"prompt\": \"\"}"), HasSubstr("at least one token"));
  EXPECT_THAT(message("{\"prompt\": []}"), HasSubstr("list of messages"));
  EXPECT_THAT(message(R"({"messages": [{"role": "assistant", "content": "a"}]})"),
              HasSubstr("ends before the assistant's answer"));
  EXPECT_THAT(message(R"({"prompt": "a", "answer": 9007199254740993})"),
              HasSubstr("column \"answer\": expected a number that float64 holds exactly"));
}

TEST(LoadPrompts, LeavesOutAndCountsWhatTheConfigurationSays) {
  const TestFolder folder;
  const std::string path =
      folder.Write("train.jsonl", "{\"prompt\": \"a\"}\nnonsense\n{\"prompt\": \"abcdef\"}\n");
  v1::DataSection data = DataOf(path);
  data.set_max_prompt_tokens(4);
  data.set_on_bad_row(v1::BAD_ROW_SKIP);
  const auto too_long = LoadPrompts(data, data.train(), *folder.Tokenizer());
  EXPECT_THAT(Message(too_long.status()),
              HasSubstr("train.jsonl:3: the prompt has 6 tokens, data.max_prompt_tokens is 4"));
  data.set_on_long_prompt(v1::LONG_PROMPT_DROP);
  const auto set = LoadPrompts(data, data.train(), *folder.Tokenizer());
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->rows.size(), 1u);
  EXPECT_EQ(set->left_out.unreadable, 1u);
  EXPECT_EQ(set->left_out.too_long, 1u);

  data.mutable_train(0)->set_path(folder.Write("none.jsonl", "nonsense\n"));
  EXPECT_THAT(Message(LoadPrompts(data, data.train(), *folder.Tokenizer()).status()),
              HasSubstr("1 rows skipped"));
  data.mutable_train(0)->set_path("/nowhere/x.jsonl");
  EXPECT_EQ(LoadPrompts(data, data.train(), *folder.Tokenizer()).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(LoadPrompts, ReadsGsm8kAndVerlRowsAsTheyAre) {
  const TestFolder folder;
  const std::string path = folder.Write(
      "train.jsonl",
      R"({"question": "1+2", "answer": "#### 3"})"
      "\n"
      R"({"data_source": "x", "prompt": [{"role": "user", "content": "4"}], "ability": "math",)"
      R"( "reward_model": {"style": "rule", "ground_truth": "5"}, "extra_info": {"index": 7}})"
      "\n"
      R"({"prompt": "1", "ground_truth": ["2", "3"]})");
  v1::DataSection data = DataOf(path);
  const auto set = LoadPrompts(data, data.train(), *folder.Tokenizer(kTemplate));
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->rows.size(), 3u);
  EXPECT_EQ(set->rows[0].text(), "1+2");
  EXPECT_EQ(set->rows[0].columns().fields().at("answer").string_value(), "#### 3");
  EXPECT_FALSE(set->rows[0].columns().fields().contains("question"));
  EXPECT_EQ(set->rows[1].text(), "u:4|a:");
  const auto& columns = set->rows[1].columns().fields();
  EXPECT_EQ(columns.at("answer").string_value(), "5");
  EXPECT_EQ(columns.at("reward_model").struct_value().fields().at("style").string_value(), "rule");
  EXPECT_EQ(columns.at("extra_info").struct_value().fields().at("index").number_value(), 7);
  EXPECT_EQ(set->rows[2].columns().fields().at("answer").list_value().values_size(), 2);
}

TEST(LoadPrompts, ColumnNamesAndPathsCanBeOverridden) {
  const TestFolder folder;
  const std::string path = folder.Write(
      "train.jsonl", R"({"prompt": "a", "in": {"q": "b"}, "answer": "1", "out": {"a": "2"}})");
  v1::DataSection data = DataOf(path);
  data.set_prompt_column("in.q");
  data.set_answer_column("out.a");
  const auto set = LoadPrompts(data, data.train(), *folder.Tokenizer());
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->rows[0].text(), "b");
  EXPECT_EQ(set->rows[0].columns().fields().at("answer").string_value(), "2");
  EXPECT_EQ(set->rows[0].columns().fields().at("prompt").string_value(), "a");
  data.set_answer_column("out.b");
  EXPECT_THAT(Message(LoadPrompts(data, data.train(), *folder.Tokenizer()).status()),
              HasSubstr("train.jsonl:1: expected a column \"out.b\""));
}

TEST(LoadPrompts, TruncatingKeepsTheEndAndCounts) {
  const TestFolder folder;
  v1::DataSection data =
      DataOf(folder.Write("train.jsonl", "{\"prompt\": \"abcdef\"}\n{\"prompt\": \"ab\"}\n"));
  data.set_max_prompt_tokens(4);
  data.set_on_long_prompt(v1::LONG_PROMPT_TRUNCATE);
  const auto set = LoadPrompts(data, data.train(), *folder.Tokenizer());
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_THAT(set->rows[0].token_ids(), ElementsAre(Id('c'), Id('d'), Id('e'), Id('f')));
  EXPECT_EQ(set->rows[0].text(), "cdef");
  EXPECT_EQ(set->rows[1].text(), "ab");
  EXPECT_EQ(set->left_out.truncated, 1u);
  EXPECT_EQ(set->left_out.too_long, 0u);
}

TEST(LoadPrompts, WeightsMixFilesTheSameInEveryRun) {
  const TestFolder folder;
  v1::DataSection data = DataOf(folder.Write("many.jsonl",
                                             "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n"
                                             "{\"prompt\": \"c\"}\n"));
  data.mutable_train(0)->set_weight(1);
  data.add_train()->set_path(folder.Write("few.jsonl", "{\"prompt\": \"0\"}\n"));
  EXPECT_THAT(Message(LoadPrompts(data, data.train(), *folder.Tokenizer()).status()),
              HasSubstr("few.jsonl: expected a weight"));
  data.mutable_train(1)->set_weight(3);
  const auto set =
      std::make_shared<PromptSet>(LoadPrompts(data, data.train(), *folder.Tokenizer()).value());
  const PromptSource source(set, 1, /*shuffle=*/false);
  std::string drawn;
  for (uint64_t n = 0; n < 12; ++n) drawn += source.PromptAt(n)->text();
  EXPECT_EQ(drawn, "a000b000c000");
  EXPECT_EQ(source.PromptAt(11)->source(), 1u);
  EXPECT_EQ(source.PromptAt(11)->epoch(), 8u);

  data.set_on_bad_row(v1::BAD_ROW_SKIP);
  data.mutable_train(1)->set_path(folder.Write("none.jsonl", "nonsense\n"));
  EXPECT_THAT(Message(LoadPrompts(data, data.train(), *folder.Tokenizer()).status()),
              HasSubstr("no row to use in "));
}

TEST(PromptSource, PromptsFollowTheOrdinal) {
  const TestFolder folder;
  const std::string path = folder.Write(
      "train.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n{\"prompt\": \"c\"}\n");
  const v1::DataSection data = DataOf(path);
  auto set =
      std::make_shared<PromptSet>(LoadPrompts(data, data.train(), *folder.Tokenizer()).value());
  const PromptSource source(set, /*seed=*/5, /*shuffle=*/true);
  std::set<std::string> second_epoch;
  for (uint64_t ordinal = 3; ordinal < 6; ++ordinal) {
    const v1::PromptRow prompt = *source.PromptAt(ordinal);
    EXPECT_EQ(prompt.epoch(), 1u);
    second_epoch.insert(prompt.text());
    EXPECT_EQ(PromptSource(set, 5, true).PromptAt(ordinal)->text(), prompt.text());
  }
  EXPECT_EQ(second_epoch.size(), 3u);
  EXPECT_EQ(source.CursorAt(7).epoch(), 2u);
  EXPECT_EQ(source.CursorAt(7).offset(), 1u);
  EXPECT_EQ(PromptSource(set, 5, false).PromptAt(4)->text(), "b");
}

}  // namespace
}  // namespace rollcall::learner
