#include "services/learner/data/chat_encoding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "services/learner/data/test_folder.h"

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Chat templates of published models with a published tokenizer, from the shared test data.
class PublishedTemplates : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("ROLLCALL_TEST_DATA");
    if (data != nullptr) texts_ = std::filesystem::path(data) / "golden/text";
    if (data == nullptr || !std::filesystem::exists(texts_)) {
      GTEST_SKIP() << "needs golden/text in ROLLCALL_TEST_DATA";
    }
  }

  nlohmann::json Golden(const std::string& name) const {
    return nlohmann::json::parse(ReadText(texts_ / "templates" / (name + ".json")));
  }

  // A published tokenizer that has the template's special tokens as well.
  std::shared_ptr<const text::Tokenizer> With(const std::string& name) const {
    nlohmann::json config = Golden(name)["special_tokens"];
    nlohmann::json tokenizer =
        nlohmann::json::parse(ReadText(texts_ / "tokenizers/qwen2_bytelevel_nfc/tokenizer.json"));
    nlohmann::json& added = tokenizer["added_tokens"];
    uint32_t next = static_cast<uint32_t>(tokenizer["model"]["vocab"].size() + added.size());
    std::set<std::string> tokens;
    for (const auto& [key, token] : config.items()) tokens.insert(token.get<std::string>());
    for (const nlohmann::json& token : added) tokens.erase(token["content"].get<std::string>());
    for (const std::string& token : tokens) {
      added.push_back({{"id", next++},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    config["chat_template"] = ReadText(texts_ / "templates" / (name + ".jinja"));
    folder_.Write("tokenizer.json", tokenizer.dump());
    folder_.Write("tokenizer_config.json", config.dump());
    auto loaded = text::Tokenizer::Load(folder_.path());
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.value_or(nullptr);
  }

  std::filesystem::path texts_;
  const TestFolder folder_;
};

// Two turns, each with its thinking where the model has that.
nlohmann::json Chat(bool thinking) {
  nlohmann::json messages = nlohmann::json::parse(R"([
      {"role": "user", "content": "First question?"},
      {"role": "assistant", "content": "First answer."},
      {"role": "user", "content": "Second question?"},
      {"role": "assistant", "content": "Second answer."}])");
  if (thinking) {
    for (const size_t turn : {size_t{1}, size_t{3}}) {
      messages[turn]["content"] =
          "<think>\nsome thoughts\n</think>\n\n" + messages[turn]["content"].get<std::string>();
    }
  }
  return messages;
}

// Bytes of the first `characters` characters.
size_t Bytes(const std::string& text, size_t characters) {
  size_t at = 0;
  for (; at < text.size(); ++at) {
    const bool starts = (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
    if (starts && characters-- == 0) break;
  }
  return at;
}

std::string Taught(const text::Tokenizer& tokenizer, const MaskedTokens& tokens) {
  std::vector<uint32_t> ids;
  for (size_t i = 0; i < tokens.token_ids.size(); ++i) {
    if (tokens.loss_mask[i] != 0) ids.push_back(tokens.token_ids[i]);
  }
  return tokenizer.Decode(ids, /*skip_special=*/false).value();
}

TEST_F(PublishedTemplates, ThoseThatDropEarlierThinkingAreRefused) {
  for (const std::string name : {"qwen3", "deepseek-r1-distill-qwen"}) {
    const auto tokenizer = With(name);
    ASSERT_NE(tokenizer, nullptr);
    const auto tokens = EncodeChat(*tokenizer, Chat(/*thinking=*/true), 0);
    EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("rewrites history at message"))
        << name;
  }
}

// The character spans that transformers itself recorded for its return_assistant_tokens_mask.
TEST_F(PublishedTemplates, GenerationBlocksTeachWhatTransformersTeaches) {
  size_t compared = 0, taught_characters = 0;
  for (const std::string name : {"llama-3-training", "qwen3-training"}) {
    const auto tokenizer = With(name);
    ASSERT_NE(tokenizer, nullptr);
    const nlohmann::json chats =
        nlohmann::json::parse(ReadText(texts_ / "templates/conversations.json"));
    const nlohmann::json golden = Golden(name);
    for (const nlohmann::json& render : golden["renders"]) {
      if (!render.contains("generation_spans") || render["generation_spans"].empty()) continue;
      const nlohmann::json& messages =
          chats["conversations"][render["conversation"].get<std::string>()];
      SCOPED_TRACE(name + " " + render["conversation"].get<std::string>());
      const auto tokens = EncodeChat(*tokenizer, messages, 0);
      ASSERT_TRUE(tokens.ok()) << tokens.status();
      // What follows the last answer teaches nothing and is left out.
      const std::string whole = render["expected"];
      const std::string text = tokenizer->Decode(tokens->token_ids, false).value();
      ASSERT_EQ(whole.substr(0, text.size()), text);
      const auto encoding = tokenizer->EncodeWithOffsets(text, false).value();
      ASSERT_EQ(encoding.ids, tokens->token_ids);
      std::vector<uint8_t> expected(encoding.ids.size(), 0);
      for (const nlohmann::json& span : render["generation_spans"]) {
        const size_t begin = Bytes(whole, span[0]), end = Bytes(whole, span[1]);
        for (size_t i = 0; i < expected.size(); ++i) {
          const auto& offset = encoding.offsets[i];
          if (offset.end > begin && offset.begin < end) expected[i] = 1;
        }
        taught_characters += end - begin;
      }
      EXPECT_EQ(tokens->loss_mask, expected);
      ++compared;
    }
  }
  EXPECT_EQ(compared, 8u);
  EXPECT_GT(taught_characters, 100u);
}

TEST_F(PublishedTemplates, OthersTeachTheAnswersAndNothingElse) {
  for (const std::string name :
       {"llama-3", "llama-3.1", "llama-3-training", "qwen2.5", "gemma-2", "phi-3.5"}) {
    const auto tokenizer = With(name);
    ASSERT_NE(tokenizer, nullptr);
    const auto tokens = EncodeChat(*tokenizer, Chat(/*thinking=*/false), 0);
    ASSERT_TRUE(tokens.ok()) << name << ": " << tokens.status();
    const std::string taught = Taught(*tokenizer, *tokens);
    EXPECT_THAT(taught, HasSubstr("First answer.")) << name;
    EXPECT_THAT(taught, HasSubstr("Second answer.")) << name;
    EXPECT_EQ(taught.find("question"), std::string::npos) << name << ": " << taught;
    // The tokens are the text that the template gives.
    const std::string text = tokenizer->Decode(tokens->token_ids, false).value();
    EXPECT_EQ(text, tokenizer->ApplyChatTemplate(Chat(false).dump(), {}).value()) << name;
  }
}

}  // namespace
}  // namespace rollcall::learner
