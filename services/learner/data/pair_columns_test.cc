#include "services/learner/data/pair_columns.h"

#include <gtest/gtest.h>

#include <string>

#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using nlohmann::json;

absl::StatusOr<PairColumns> Split(const std::string& row) {
  v1::DataSection data = DataOf("x.jsonl");
  data.set_chosen_column("chosen");
  data.set_rejected_column("rejected");
  const std::string path = "x.jsonl";
  return SplitPair(data, {.path = path, .line = 7}, json::parse(row));
}

struct Shape {
  const char* name;
  const char* row;
  const char* prompt;
  const char* chosen;
  const char* rejected;
};

TEST(SplitPair, EveryShapeOfTheEcosystem) {
  const Shape shapes[] = {
      {"explicit strings", R"({"prompt": "a ", "chosen": "a b", "rejected": "c"})", R"("a ")",
       R"("a b")", R"("c")"},
      {"explicit messages",
       R"({"prompt": [{"role": "user", "content": "q"}],
           "chosen": [{"role": "assistant", "content": "y"}], "rejected": "n"})",
       R"([{"role": "user", "content": "q"}])", R"([{"role": "assistant", "content": "y"}])",
       R"("n")"},
      {"whole chats beside the messages of the prompt",
       R"({"prompt": [{"role": "user", "content": "q"}],
           "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "y"}],
           "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "n"}]})",
       R"([{"role": "user", "content": "q"}])", R"([{"role": "assistant", "content": "y"}])",
       R"([{"role": "assistant", "content": "n"}])"},
      {"whole chats beside the text of the prompt",
       R"({"prompt": "q", "chosen": [{"role": "system", "content": "s"},
             {"role": "user", "content": "q"}, {"role": "assistant", "content": "y"}],
           "rejected": [{"role": "system", "content": "s"},
             {"role": "user", "content": "q"}, {"role": "assistant", "content": "n"}]})",
       R"([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}])",
       R"([{"role": "assistant", "content": "y"}])", R"([{"role": "assistant", "content": "n"}])"},
      {"implicit chats with a shared turn",
       R"({"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "y"},
             {"role": "user", "content": "r"}, {"role": "assistant", "content": "s"}],
           "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "y"},
             {"role": "user", "content": "r"}, {"role": "assistant", "content": "t"}]})",
       R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "y"},
           {"role": "user", "content": "r"}])",
       R"([{"role": "assistant", "content": "s"}])", R"([{"role": "assistant", "content": "t"}])"},
      {"implicit strings, as in TRL's example",
       R"({"chosen": "The sky is blue.", "rejected": "The sky is green."})", R"("The sky is")",
       R"(" blue.")", R"(" green.")"},
      {"a word is never split", R"({"chosen": "The sky is blue", "rejected": "The sky is black"})",
       R"("The sky is")", R"(" blue")", R"(" black")"},
      {"a line break stays with the prompt", R"({"chosen": "Q: x\nyes", "rejected": "Q: x\nno"})",
       R"("Q: x\n")", R"("yes")", R"("no")"},
      {"a character is never split", R"({"chosen": "天é", "rejected": "天è"})", R"("天")", R"("é")",
       R"("è")"},
  };
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(shape.name);
    const auto pair = Split(shape.row);
    ASSERT_TRUE(pair.ok()) << pair.status();
    EXPECT_EQ(pair->prompt, json::parse(shape.prompt));
    EXPECT_EQ(pair->chosen, json::parse(shape.chosen));
    EXPECT_EQ(pair->rejected, json::parse(shape.rejected));
  }
}

}  // namespace
}  // namespace rollcall::learner
