// What a user's file may get wrong, and what each mistake is answered with: file, row, column, and
// what to do about it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "services/learner/data/demonstrations.h"
#include "services/learner/data/labelled_completions.h"
#include "services/learner/data/preferences.h"
#include "services/learner/data/prompt_set.h"
#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;

enum class Stage { kPrompts, kSft, kPairs, kLabels };

struct BadRow {
  const char* name;
  Stage stage;
  std::string row;
  // Each is part of the message.
  std::vector<const char*> says;
};

absl::Status Load(Stage stage, const v1::DataSection& data, const text::Tokenizer& tokenizer) {
  switch (stage) {
    case Stage::kPrompts:
      return LoadPrompts(data, data.train(), tokenizer).status();
    case Stage::kSft:
      return LoadDemonstrations(data, data.train(), tokenizer, 64).status();
    case Stage::kPairs:
      return LoadPreferences(data, data.train(), tokenizer, 64).status();
    case Stage::kLabels:
      return LoadLabelledCompletions(data, data.train(), tokenizer, 64).status();
  }
  return absl::OkStatus();
}

constexpr char kUser[] = R"({"role": "user", "content": "a"})";
constexpr char kSkip[] = "data.on_bad_row: skip";

std::vector<BadRow> WrongEncodings() {
  return {
      {"a NUL byte",
       Stage::kSft,
       std::string("{\"prompt\": \"\0\"}", 15),
       {"byte 13: expected text, got a NUL byte: save the file as UTF-8", kSkip}},
      {"Latin-1",
       Stage::kSft,
       "{\"prompt\": \"caf\xe9\"}",
       {"not valid UTF-8: save the file as UTF-8 (iconv -f LATIN1", kSkip}},
      {"half an object",
       Stage::kSft,
       "{\"prompt\": ",
       {"not valid JSON: each line is to be one whole object"}},
      {"an array",
       Stage::kSft,
       "[{\"prompt\": \"a\"}]",
       {"expected a JSON object, got array: write one object a line (jq -c '.[]')"}},
      {"a number that is none",
       Stage::kSft,
       "{\"prompt\": 1e999}",
       {"within the range of float64: write this one as a string"}},
  };
}

std::vector<BadRow> WrongColumns() {
  return {
      {"no prompt",
       Stage::kPrompts,
       R"({"text": "a"})",
       {"expected a column \"prompt\", \"messages\" or \"question\", the row has: text",
        "data.prompt_column"}},
      {"a prompt of another type",
       Stage::kPrompts,
       R"({"prompt": 3})",
       {"column \"prompt\": expected a string or a list of messages with roles, got number 3"}},
      {"a prompt without a token",
       Stage::kPrompts,
       R"({"prompt": ""})",
       {"column \"prompt\": expected a prompt of at least one token"}},
      {"no completion",
       Stage::kSft,
       R"({"prompt": "a"})",
       {"expected a column \"completion\" beside the column \"prompt\"",
        "name it by data.completion_column", kSkip}},
      {"a completion of another type",
       Stage::kSft,
       R"({"prompt": "a", "completion": ["b"]})",
       {"column \"completion\": expected a string, got array [\"b\"]"}},
      {"an empty completion",
       Stage::kSft,
       R"({"prompt": "a", "completion": ""})",
       {"column \"completion\": expected an answer, an empty completion teaches nothing", "remove",
        kSkip}},
      {"a silent assistant",
       Stage::kSft,
       std::string(R"({"prompt": [)") + kUser +
           R"(], "completion": [{"role": "assistant", "content": ""}]})",
       {"column \"completion\": expected an answer, an empty completion"}},
      {"a chat without an answer",
       Stage::kSft,
       std::string(R"({"messages": [)") + kUser + "]}",
       {"column \"messages\": expected a completion of at least one token", "assistant"}},
      {"no label",
       Stage::kLabels,
       R"({"prompt": "a", "completion": "b"})",
       {"expected a column \"label\" beside prompt and completion, the row has: completion, prompt",
        "name it by data.label_column"}},
      {"a label of another type",
       Stage::kLabels,
       R"({"prompt": "a", "completion": "b", "label": "yes"})",
       {"column \"label\": expected true or false, or 1 or 0, got string \"yes\""}},
      {"too long a row",
       Stage::kSft,
       R"({"prompt": "a", "completion": ")" + std::string(80, 'b') + "\"}",
       {"the row has 82 tokens, the model's context is 64", "data.on_long_prompt: drop"}},
  };
}

std::vector<BadRow> WrongPairs() {
  const std::string user = kUser;
  const auto chats = [](const std::string& prompt, const std::string& chosen,
                        const std::string& rejected) {
    return "{" + prompt + "\"chosen\": [" + chosen + "], \"rejected\": [" + rejected + "]}";
  };
  const std::string yes = R"({"role": "assistant", "content": "1"})";
  const std::string no = R"({"role": "assistant", "content": "2"})";
  const std::string other = R"({"role": "user", "content": "b"})";
  return {
      {"no rejected",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": "b"})",
       {"expected a column \"rejected\", the row has: chosen, prompt", "data.rejected_column"}},
      {"a side of another type",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": 3, "rejected": "c"})",
       {"column \"chosen\": expected a string or a list of messages with roles, got number 3"}},
      {"equal sides",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": "b", "rejected": "b"})",
       {"column \"rejected\": expected another completion than \"chosen\" has, got the same",
        "remove it", kSkip}},
      {"an empty side",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": "b", "rejected": ""})",
       {"column \"rejected\": expected more than the prompt, got an empty completion"}},
      {"a text and a chat",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": "b", "rejected": [)" + user + "]}",
       {"column \"rejected\": expected a string, as the prompt and the other completion are"}},
      {"no prefix, messages",
       Stage::kPairs,
       chats("\"prompt\": [" + other + "], ", user + "," + yes, user + "," + no),
       {"column \"chosen\": expected a chat that begins with column \"prompt\"",
        "data.prompt_column: \"\""}},
      {"no prefix, text",
       Stage::kPairs,
       chats("\"prompt\": \"b\", ", user + "," + yes, user + "," + no),
       {"column \"chosen\": expected a chat that begins with column \"prompt\""}},
      {"nothing shared, messages",
       Stage::kPairs,
       chats("", user + "," + yes, other + "," + no),
       {"column \"chosen\": expected the same beginning as in \"rejected\"", "data.prompt_column"}},
      {"nothing shared, text",
       Stage::kPairs,
       R"({"chosen": "a b", "rejected": "c d"})",
       {"column \"chosen\": expected the same beginning as in \"rejected\""}},
      {"other questions",
       Stage::kPairs,
       chats("", user + "," + yes + "," + user + "," + yes, user + "," + yes + "," + other),
       {"differs at message 2, which is the user's: pair completions of one chat"}},
      {"one ends where the other goes on",
       Stage::kPairs,
       chats("", user + "," + yes, user),
       {"column \"rejected\": expected more than the prompt"}},
      {"no margin",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": "b", "rejected": "c"})",
       {"expected a column \"by\", which the configuration names, the row has: chosen, prompt"}},
      {"a margin of another type",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": "b", "rejected": "c", "by": "1"})",
       {"column \"by\": expected a number, got string \"1\""}},
      {"no probability",
       Stage::kPairs,
       R"({"prompt": "a", "chosen": "b", "rejected": "c", "by": 1, "p": 1.5})",
       {"column \"p\": expected a probability from 0 to 1, got number 1.5"}},
  };
}

TEST(BadRows, EachErrorNamesFileRowColumnAndRemedy) {
  const TestFolder folder;
  const auto tokenizer =
      folder.Tokenizer("{% for m in messages %}{{ m.role[:1] }}:{{ m.content }}|{% endfor %}");
  std::vector<BadRow> rows = WrongEncodings();
  for (const auto& more : {WrongColumns(), WrongPairs()}) {
    rows.insert(rows.end(), more.begin(), more.end());
  }
  for (const BadRow& bad : rows) {
    SCOPED_TRACE(bad.name);
    v1::DataSection data = DataOf(folder.Write("bad.jsonl", "\n" + bad.row + "\n"));
    data.set_chosen_column("chosen");
    data.set_rejected_column("rejected");
    data.set_label_column("label");
    data.set_margin_column("by");
    if (bad.row.find("\"p\"") != std::string::npos) data.set_preference_column("p");
    const absl::Status status = Load(bad.stage, data, *tokenizer);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    const std::string message(status.message());
    EXPECT_THAT(message, HasSubstr(folder.path() + "/bad.jsonl:2: "));
    for (const char* part : bad.says) EXPECT_THAT(message, HasSubstr(part));

    // Left out where the configuration says so, and counted.
    data.set_on_bad_row(v1::BAD_ROW_SKIP);
    data.set_on_long_prompt(v1::LONG_PROMPT_DROP);
    EXPECT_THAT(std::string(Load(bad.stage, data, *tokenizer).message()),
                ::testing::AnyOf(HasSubstr("1 rows skipped, 0 dropped"),
                                 HasSubstr("0 rows skipped, 1 dropped")));
  }
}

}  // namespace
}  // namespace rollcall::learner
