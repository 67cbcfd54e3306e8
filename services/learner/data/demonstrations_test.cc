#include "services/learner/data/demonstrations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

// Every turn ends with <eos> and a bar that the policy never samples.
constexpr char kTemplate[] =
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<eos>|{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}";
// Drops all but the last two messages.
constexpr char kForgetfulTemplate[] =
    "{% for m in messages[-2:] %}{{ m.role[0] }}:{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}";

// The mask written with one digit per token.
std::string Mask(const MaskedTokens& tokens) {
  std::string mask;
  for (const uint8_t bit : tokens.loss_mask) mask += bit != 0 ? '1' : '0';
  return mask;
}

absl::StatusOr<MaskedTokens> ReadOne(const TestFolder& folder, const std::string& line,
                                     const text::Tokenizer& tokenizer, bool append_eos = true) {
  v1::DataSection data = DataOf(folder.Write("sft.jsonl", line));
  data.set_append_eos(append_eos);
  auto set = LoadDemonstrations(data, data.train(), tokenizer, 0);
  if (!set.ok()) return set.status();
  return set->rows.at(0);
}

TEST(LoadDemonstrations, TeachesTheCompletionOfAPrompt) {
  const TestFolder folder;
  const auto tokens =
      ReadOne(folder, R"({"prompt": "1+2=", "completion": "3"})", *folder.Tokenizer());
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(tokens->token_ids, ElementsAreArray(Ids("1+2=3$")));
  EXPECT_EQ(Mask(*tokens), "000011");

  const auto open = ReadOne(folder, R"({"prompt": "1+2=", "completion": "3"})", *folder.Tokenizer(),
                            /*append_eos=*/false);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_THAT(open->token_ids, ElementsAreArray(Ids("1+2=3")));

  EXPECT_EQ(ReadOne(folder, R"({"prompt": "1", "completion": "3"})",
                    *folder.Tokenizer("", /*with_eos=*/false))
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(LoadDemonstrations, TeachesEveryTurnOfTheAssistantInAChat) {
  const TestFolder folder;
  const auto tokens = ReadOne(
      folder,
      R"({"messages": [{"role": "b", "content": "1"}, {"role": "assistant", "content": "23"},)"
      R"( {"role": "b", "content": "4"}, {"role": "assistant", "content": "5"}]})",
      *folder.Tokenizer(kTemplate));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(tokens->token_ids, ElementsAreArray(Ids("b:1$|a:23$|b:4$|a:5$|")));
  EXPECT_EQ(Mask(*tokens), "000000011100000000110");
}

TEST(LoadDemonstrations, TeachesOnlyTheCompletionOfAChatPrompt) {
  const TestFolder folder;
  const auto tokenizer = folder.Tokenizer(kTemplate);
  const std::string prompt =
      R"("prompt": [{"role": "b", "content": "1"}, {"role": "assistant", "content": "2"},)"
      R"( {"role": "b", "content": "3"}])";
  const auto from_string = ReadOne(folder, "{" + prompt + R"(, "completion": "4"})", *tokenizer);
  ASSERT_TRUE(from_string.ok()) << from_string.status();
  EXPECT_THAT(from_string->token_ids, ElementsAreArray(Ids("b:1$|a:2$|b:3$|a:4$|")));
  EXPECT_EQ(Mask(*from_string), "00000000000000000110");
  const auto from_messages =
      ReadOne(folder, "{" + prompt + R"(, "completion": [{"role": "assistant", "content": "4"}]})",
              *tokenizer);
  ASSERT_TRUE(from_messages.ok()) << from_messages.status();
  EXPECT_EQ(from_messages->token_ids, from_string->token_ids);
  EXPECT_EQ(from_messages->loss_mask, from_string->loss_mask);
}

// What is inside of the block is taught: here without the end of the turn, unlike by differences.
TEST(LoadDemonstrations, GenerationBlocksDecideTheMask) {
  const TestFolder folder;
  const auto tokenizer = folder.Tokenizer(
      "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}"
      "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
      "<eos>|{% endfor %}{% if add_generation_prompt %}a:{% endif %}");
  const std::string turns =
      R"([{"role": "b", "content": "1"}, {"role": "assistant", "content": "23"},)"
      R"( {"role": "b", "content": "4"})";
  const auto chat =
      ReadOne(folder, R"({"messages": )" + turns + R"(, {"role": "assistant", "content": "5"}]})",
              *tokenizer);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_THAT(chat->token_ids, ElementsAreArray(Ids("b:1$|a:23$|b:4$|a:5$|")));
  EXPECT_EQ(Mask(*chat), "000000011000000000100");
  const auto completion =
      ReadOne(folder, R"({"prompt": )" + turns + R"(], "completion": "5"})", *tokenizer);
  ASSERT_TRUE(completion.ok()) << completion.status();
  EXPECT_EQ(completion->token_ids, chat->token_ids);
  EXPECT_EQ(Mask(*completion), "000000000000000000100");
}

TEST(LoadDemonstrations, GenerationBlocksDoNotHideRewrittenHistory) {
  const TestFolder folder;
  const auto tokenizer = folder.Tokenizer(
      "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}"
      "{% if loop.last %}j{% endif %}{{ m.content }}{% endgeneration %}{% endif %}|{% endfor %}");
  const auto chat = ReadOne(
      folder,
      R"({"messages": [{"role": "b", "content": "1"}, {"role": "assistant", "content": "2"},)"
      R"( {"role": "b", "content": "3"}, {"role": "assistant", "content": "4"}]})",
      *tokenizer);
  EXPECT_THAT(std::string(chat.status().message()),
              HasSubstr("sft.jsonl:1: the chat template rewrites history at message 2"));
}

// As Phi-3's: <eos> behind a whole chat, and not between its turns.
TEST(LoadDemonstrations, ATokenThatClosesAChatIsNoHistory) {
  const TestFolder folder;
  const auto tokens = ReadOne(
      folder,
      R"({"messages": [{"role": "b", "content": "1"}, {"role": "assistant", "content": "23"},)"
      R"( {"role": "b", "content": "4"}, {"role": "assistant", "content": "5"}]})",
      *folder.Tokenizer("{% for m in messages %}{{ m.role[0] }}:{{ m.content }}|{% endfor %}"
                        "{% if add_generation_prompt %}a:{% else %}{{ eos_token }}{% endif %}"));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(tokens->token_ids, ElementsAreArray(Ids("b:1|a:23|b:4|a:5|$")));
  EXPECT_EQ(Mask(*tokens), "000000111000000111");
}

TEST(LoadDemonstrations, RefusesATemplateThatRewritesHistory) {
  const TestFolder folder;
  const auto tokens = ReadOne(
      folder,
      R"({"messages": [{"role": "b", "content": "1"}, {"role": "assistant", "content": "2"},)"
      R"( {"role": "b", "content": "3"}, {"role": "assistant", "content": "4"}]})",
      *folder.Tokenizer(kForgetfulTemplate));
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokens.status().message()),
              HasSubstr("sft.jsonl:1: the chat template rewrites history at message 3"));
}

TEST(LoadDemonstrations, ErrorsNameTheColumn) {
  const TestFolder folder;
  const auto message = [&](const std::string& line) {
    const auto tokens = ReadOne(folder, line, *folder.Tokenizer(kTemplate));
    EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument) << line;
    return std::string(tokens.status().message());
  };
  EXPECT_THAT(message(R"({"prompt": "a"})"), HasSubstr(":1: expected a column \"completion\""));
  EXPECT_THAT(message(R"({"prompt": "a", "completion": 3})"),
              HasSubstr("column \"completion\": expected a string, got number 3"));
  EXPECT_THAT(message(R"({"text": "a"})"),
              HasSubstr("column \"prompt\", \"messages\" or \"question\""));
  EXPECT_THAT(message(R"({"messages": "a"})"), HasSubstr("expected a list of messages"));
  EXPECT_THAT(message(R"({"messages": [{"role": "b", "content": "1"}]})"),
              HasSubstr("expected a completion of at least one token"));
}

TEST(LoadDemonstrations, BoundsPromptAndWholeSequence) {
  const TestFolder folder;
  v1::DataSection data = DataOf(folder.Write("sft.jsonl",
                                             "{\"prompt\": \"abcde\", \"completion\": \"a\"}\n"
                                             "{\"prompt\": \"a\", \"completion\": \"0123456789\"}\n"
                                             "{\"prompt\": \"a\", \"completion\": \"b\"}\n"));
  data.set_max_prompt_tokens(4);
  data.set_on_long_prompt(v1::LONG_PROMPT_DROP);
  const auto set = LoadDemonstrations(data, data.train(), *folder.Tokenizer(), 8);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->rows.size(), 1u);
  EXPECT_EQ(set->left_out.too_long, 2u);
}

TEST(LoadDemonstrations, QuestionsAndAnswersArePairs) {
  const TestFolder folder;
  const auto tokens =
      ReadOne(folder, R"({"question": "1+2=", "answer": "3"})", *folder.Tokenizer());
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_THAT(tokens->token_ids, ElementsAreArray(Ids("1+2=3$")));
  EXPECT_EQ(Mask(*tokens), "000011");
  // A chat beside its prompt, without a completion column, is the chat.
  const auto chat = ReadOne(folder,
                            R"({"prompt": "1", "messages": [{"role": "b", "content": "1"},)"
                            R"( {"role": "assistant", "content": "2"}]})",
                            *folder.Tokenizer(kTemplate));
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_THAT(chat->token_ids, ElementsAreArray(Ids("b:1$|a:2$|")));
}

TEST(LoadDemonstrations, TruncatingShortensThePromptOnly) {
  const TestFolder folder;
  v1::DataSection data =
      DataOf(folder.Write("sft.jsonl",
                          "{\"prompt\": \"abcde\", \"completion\": \"0\"}\n"
                          "{\"prompt\": \"abcd\", \"completion\": \"01234\"}\n"));
  data.set_max_prompt_tokens(4);
  data.set_on_long_prompt(v1::LONG_PROMPT_TRUNCATE);
  const auto set = LoadDemonstrations(data, data.train(), *folder.Tokenizer(), 8);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->left_out.truncated, 2u);
  EXPECT_THAT(set->rows[0].token_ids, ElementsAreArray(Ids("bcde0$")));
  EXPECT_EQ(Mask(set->rows[0]), "000011");
  EXPECT_THAT(set->rows[1].token_ids, ElementsAreArray(Ids("cd01234$")));
  EXPECT_EQ(Mask(set->rows[1]), "00111111");
  EXPECT_THAT(
      std::string(
          LoadDemonstrations(data, data.train(), *folder.Tokenizer(), 6).status().message()),
      HasSubstr("sft.jsonl:2: the row has 10 tokens, the model's context is 6"));
}

TEST(DemonstrationSource, ABatchIsAFunctionOfItsStep) {
  auto set = std::make_shared<DemonstrationSet>();
  for (uint32_t i = 0; i < 5; ++i) set->rows.push_back({{i, i}, {0, 1}});
  DemonstrationSource source(set, 3, /*shuffle=*/true, 2), resumed(set, 3, true, 2);
  std::vector<std::vector<uint32_t>> batches;
  for (uint64_t step = 1; step <= 6; ++step) {
    const auto batch = source.Next(step);
    ASSERT_TRUE(batch.ok());
    EXPECT_TRUE(CheckBatch(*batch, {.vocab_size = 5}).ok());
    batches.push_back({batch->sequences[0].token_ids[0], batch->sequences[1].token_ids[0]});
  }
  for (uint64_t step = 6; step >= 1; --step) {
    const auto batch = resumed.Next(step);
    EXPECT_THAT(batches[step - 1],
                ElementsAre(batch->sequences[0].token_ids[0], batch->sequences[1].token_ids[0]));
  }
  // The first five rows visited are all rows.
  std::set<uint32_t> seen;
  for (size_t i = 0; i < 5; ++i) seen.insert(batches[i / 2][i % 2]);
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_EQ(source.Next(1)->metrics.at("length/mean"), 2);
  EXPECT_EQ(source.Next(6)->metrics.at("data/epoch"), 2);
  EXPECT_FALSE(source.Next(0).ok());
}

}  // namespace
}  // namespace rollcall::learner
