#include "services/reward/model/sequence_encoder.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/text/text_test_data.h"

namespace rollcall::reward {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTemplate[] =
    "{% for m in messages %}{{ 'a' if m.role == 'user' else 'b' }} {{ m.content }}{% endfor %}</s>";

// The tiny tokenizer's ids: <s> 0, </s> 1, a 2, b 3, c 4, blank 5, ab 6.
class SequenceEncoderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
    std::ofstream(folder_ / "tokenizer.json") << text::kTinyTokenizer;
  }

  SequenceEncoder Encoder(const std::string& tokenizer_config,
                          const SequenceEncoderOptions& options = {.vocab_size = 11,
                                                                   .context_length = 12}) {
    std::ofstream(folder_ / "tokenizer_config.json") << tokenizer_config;
    auto tokenizer = text::Tokenizer::Load(folder_.string());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return SequenceEncoder(*std::move(tokenizer), options);
  }
  SequenceEncoder Plain() { return Encoder(R"({"bos_token": "<s>", "eos_token": "</s>"})"); }
  SequenceEncoder WithTemplate(const SequenceEncoderOptions& options = {.vocab_size = 11,
                                                                        .context_length = 12}) {
    return Encoder(absl::StrCat(R"({"bos_token": "<s>", "eos_token": "</s>", "chat_template": ")",
                                kTemplate, "\"}"),
                   options);
  }

  // A group whose only sample is sample(0).
  static v1::VerifierGroup Group(const std::string& text) {
    v1::VerifierGroup group;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &group));
    return group;
  }
  static v1::VerifierGroup StringPrompt(const std::string& finish) {
    return Group(
        "prompt_text: 'a' prompt_messages { role: 'user' content: 'a' } prompt_token_ids: [0, 2] "
        "samples { text: 'b c' token_ids: [3, 5, 4, 1] finish_reason: " +
        finish + " }");
  }
  static v1::VerifierGroup ChatPrompt() {
    return Group(
        "prompt_text: 'a c' prompt_messages { role: 'user' content: 'c' } prompt_token_ids: [2, 5] "
        "samples { text: 'a' token_ids: [2] finish_reason: FINISH_REASON_STOP_TOKEN }");
  }

  std::filesystem::path folder_;
};

TEST_F(SequenceEncoderTest, JoinsTextsAcrossTheBorderAndEndsWhatEndedByItself) {
  const SequenceEncoder encoder = Plain();
  v1::VerifierGroup group = StringPrompt("FINISH_REASON_STOP_TOKEN");
  // "a" + "b c": the merge of a and b does not know where the prompt ended.
  EXPECT_THAT(encoder.Encode(group, group.samples(0)).value(), ElementsAre(0, 6, 5, 4, 1));
  group = StringPrompt("FINISH_REASON_LENGTH");
  EXPECT_THAT(encoder.Encode(group, group.samples(0)).value(), ElementsAre(0, 6, 5, 4));
}

TEST_F(SequenceEncoderTest, TakesThePolicysTokensAsTheyAre) {
  const SequenceEncoder encoder = Encoder(
      R"({"eos_token": "</s>"})", {.policy_tokens = true, .vocab_size = 11, .context_length = 12});
  const v1::VerifierGroup group = StringPrompt("FINISH_REASON_STOP_TOKEN");
  EXPECT_THAT(encoder.Encode(group, group.samples(0)).value(), ElementsAre(0, 2, 3, 5, 4, 1));
}

TEST_F(SequenceEncoderTest, RendersChatsAlsoWhereTheTokensAreThePolicys) {
  for (const bool policy_tokens : {false, true}) {
    const SequenceEncoder encoder =
        WithTemplate({.policy_tokens = policy_tokens, .vocab_size = 11, .context_length = 12});
    v1::VerifierGroup group = ChatPrompt();
    // "a c" + "b a" + "</s>", and nothing in front.
    EXPECT_THAT(encoder.Encode(group, group.samples(0)).value(), ElementsAre(2, 5, 4, 3, 5, 2, 1));
    // Several turns take the answer's place.
    v1::ChatMessage* turn = group.mutable_samples(0)->add_messages();
    turn->set_role("user");
    turn->set_content("b");
    EXPECT_THAT(encoder.Encode(group, group.samples(0)).value(), ElementsAre(2, 5, 4, 2, 5, 3, 1));
  }
}

TEST_F(SequenceEncoderTest, ChatsMayBeJoinedInstead) {
  const v1::VerifierGroup group = ChatPrompt();
  EXPECT_THAT(WithTemplate({.apply_chat_template = false, .vocab_size = 11, .context_length = 12})
                  .Encode(group, group.samples(0))
                  .value(),
              ElementsAre(2, 5, 4, 2, 1));  // the prompt's text has its own special tokens
  EXPECT_THAT(WithTemplate({.apply_chat_template = false,
                            .policy_tokens = true,
                            .vocab_size = 11,
                            .context_length = 12})
                  .Encode(group, group.samples(0))
                  .value(),
              ElementsAre(2, 5, 2));
}

TEST_F(SequenceEncoderTest, WhatTheModelCannotReadIsAnErrorAndSaysWhy) {
  const v1::VerifierGroup chat = ChatPrompt();
  const auto no_template = Plain().Encode(chat, chat.samples(0));
  EXPECT_TRUE(absl::IsFailedPrecondition(no_template.status()));
  EXPECT_THAT(std::string(no_template.status().message()), HasSubstr("apply_chat_template: false"));

  const v1::VerifierGroup prompt = StringPrompt("FINISH_REASON_STOP_TOKEN");
  const auto refusal = [&](const SequenceEncoderOptions& options, const v1::VerifierGroup& group) {
    const auto ids = Encoder("{}", options).Encode(group, group.samples(0));
    return std::string(ids.status().message());
  };
  EXPECT_THAT(refusal({.vocab_size = 11, .context_length = 3}, prompt),
              HasSubstr("4 tokens, the reward model reads 1 to 3"));
  EXPECT_THAT(refusal({.vocab_size = 5, .context_length = 12}, prompt),
              HasSubstr("token 6 is outside the reward model's vocabulary of 5"));
  EXPECT_THAT(
      refusal({.policy_tokens = true, .vocab_size = 11, .context_length = 12}, Group("samples {}")),
      HasSubstr("0 tokens"));
}

}  // namespace
}  // namespace rollcall::reward
