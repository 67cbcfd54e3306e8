#include "common/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/text/crate/rollcall_text.h"
#include "common/text/crate_buffer.h"
#include "common/text/text_test_data.h"
#include "nlohmann/json.hpp"

namespace rollcall::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(TextCrateTest, APanicBecomesAStatusWithItsPlace) {
  CrateBuffer error;
  const absl::Status status = CrateStatus(rollcall_text_panic_for_test(error.out()), error);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Message(status), HasSubstr("a deliberate panic"));
  EXPECT_THAT(Message(status), HasSubstr("lib.rs"));
}

TEST(TokenizerTest, EncodesAndDecodes) {
  const auto tokenizer = Tokenizer::FromJson(kTinyTokenizer).value();
  EXPECT_EQ(tokenizer->vocab_size(), 11u);
  EXPECT_THAT(tokenizer->Encode("ab c€", true).value(), ElementsAre(0, 6, 5, 4, 7, 8, 9));
  EXPECT_THAT(tokenizer->Encode("ab c€", false).value(), ElementsAre(6, 5, 4, 7, 8, 9));
  EXPECT_THAT(tokenizer->Encode("", false).value(), ElementsAre());
  EXPECT_THAT(tokenizer->Encode("</s>a", false).value(), ElementsAre(1, 2));
  const std::vector<uint32_t> ids = {0, 6, 5, 7, 8, 9, 1};
  EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/true).value(), "ab €");
  EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/false).value(), "<s>ab €</s>");
  EXPECT_EQ(tokenizer->Decode({}, true).value(), "");
}

TEST(TokenizerTest, OffsetsAreBytesOfTheText) {
  const auto tokenizer = Tokenizer::FromJson(kTinyTokenizer).value();
  const Encoding encoding = tokenizer->EncodeWithOffsets("€ab", false).value();
  EXPECT_THAT(encoding.ids, ElementsAre(7, 8, 9, 6));
  EXPECT_EQ(encoding.offsets, (std::vector<Encoding::Offset>{{0, 3}, {0, 3}, {0, 3}, {3, 5}}));
}

TEST(TokenizerTest, LooksUpTokens) {
  const auto tokenizer = Tokenizer::FromJson(kTinyTokenizer).value();
  EXPECT_EQ(tokenizer->TokenToId("ab"), 6u);
  EXPECT_EQ(tokenizer->TokenToId("</s>"), 1u);
  EXPECT_EQ(tokenizer->TokenToId("zz"), std::nullopt);
  EXPECT_EQ(tokenizer->IdToToken(6), "ab");
  EXPECT_EQ(tokenizer->IdToToken(11), std::nullopt);
}

TEST(TokenizerTest, RefusesWhatIsNotUtf8) {
  const auto tokenizer = Tokenizer::FromJson(kTinyTokenizer).value();
  const absl::Status status = tokenizer->Encode("ab\xff", false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("offset 2"));
}

TEST(TokenizerTest, IgnoresASavedTruncation) {
  json saved = json::parse(kTinyTokenizer);
  saved["truncation"] = {
      {"direction", "Right"}, {"max_length", 2}, {"strategy", "LongestFirst"}, {"stride", 0}};
  const auto tokenizer = Tokenizer::FromJson(saved.dump()).value();
  EXPECT_EQ(tokenizer->Encode("a b a b a b", false)->size(), 11u);
}

TEST(TokenizerTest, RefusesWhatIsNoTokenizer) {
  for (const char* bad : {"", "{}", "[1]", "{\"model\": {\"type\": \"BPE\"}}"}) {
    const absl::Status status = Tokenizer::FromJson(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(Message(status), HasSubstr("tokenizer.json")) << bad;
  }
}

class TokenizerFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / ("rollcall_tokenizer_" + std::string(test->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  absl::StatusOr<std::shared_ptr<const Tokenizer>> Load() {
    return Tokenizer::Load(folder_.string());
  }

  fs::path folder_;
};

TEST_F(TokenizerFolderTest, TokenizerJsonAloneIsEnough) {
  Write("tokenizer.json", kTinyTokenizer);
  const auto tokenizer = Load().value();
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
  EXPECT_FALSE(tokenizer->has_chat_template());
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(TokenizerFolderTest, EosIdsAreTheTokenizersThenTheGenerationConfigs) {
  Write("tokenizer.json", kTinyTokenizer);
  Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
  Write("generation_config.json", R"({"bos_token_id": 5, "eos_token_id": [4, 1]})");
  Write("config.json", R"({"eos_token_id": 3})");
  const auto tokenizer = Load().value();
  EXPECT_EQ(tokenizer->bos_id(), 0u);
  EXPECT_EQ(tokenizer->eos_id(), 1u);
  EXPECT_THAT(tokenizer->eos_ids(), ElementsAre(1, 4));
}

TEST_F(TokenizerFolderTest, TheModelsIdsServeWhereTheTokenizerIsSilent) {
  Write("tokenizer.json", kTinyTokenizer);
  Write("config.json", R"({"bos_token_id": 0, "eos_token_id": 1})");
  auto tokenizer = Load().value();
  EXPECT_EQ(tokenizer->bos_id(), 0u);
  EXPECT_THAT(tokenizer->eos_ids(), ElementsAre(1));
  // A tokenizer that says it has no bos is believed.
  Write("tokenizer_config.json", R"({"bos_token": null})");
  tokenizer = Load().value();
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
}

TEST_F(TokenizerFolderTest, ErrorsNameTheFileAndTheField) {
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
  Write("tokenizer.model", "sentencepiece");
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(Load().status()), HasSubstr("Convert it once"));

  Write("tokenizer.json", kTinyTokenizer);
  Write("generation_config.json", R"({"eos_token_id": [1, -2]})");
  EXPECT_THAT(Message(Load().status()), HasSubstr("generation_config.json: eos_token_id"));
  Write("generation_config.json", "not json");
  EXPECT_THAT(Message(Load().status()),
              HasSubstr("generation_config.json: expected a JSON object"));
  fs::remove(folder_ / "generation_config.json");
  Write("tokenizer_config.json", R"({"eos_token": "<missing>"})");
  EXPECT_THAT(Message(Load().status()),
              HasSubstr("eos_token: '<missing>' is not in the vocabulary"));
  Write("tokenizer_config.json", R"({"chat_template": [{"name": "default"}]})");
  EXPECT_THAT(Message(Load().status()), HasSubstr("chat_template"));
}

TEST_F(TokenizerFolderTest, ChatTemplatesByNameAndFromTheirOwnFile) {
  Write("tokenizer.json", kTinyTokenizer);
  Write("tokenizer_config.json", R"({"eos_token": "</s>", "chat_template": [
      {"name": "default", "template": "d{{ eos_token }}"}, {"name": "tool_use", "template": "t{{ tools|length }}"}]})");
  ChatTemplateOptions with_tools;
  with_tools.tools_json = "[{}, {}]";
  auto tokenizer = Load().value();
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", {}).value(), "d</s>");
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", with_tools).value(), "t2");
  ChatTemplateOptions named;
  named.template_name = "tool_use";
  EXPECT_THAT(Message(tokenizer->ApplyChatTemplate("[]", named).status()),
              HasSubstr("cannot calculate length"));
  named.template_name = "rag";
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", named).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(tokenizer->ApplyChatTemplate("[]", named).status()),
              HasSubstr("no chat template \"rag\", it has default, tool_use"));
  // Files win over the configuration.
  Write("chat_template.jinja", "file");
  tokenizer = Load().value();
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", with_tools).value(), "file");
  fs::create_directory(folder_ / "additional_chat_templates");
  Write("additional_chat_templates/rag.jinja", "{{ documents[0].title }}");
  tokenizer = Load().value();
  named.documents_json = R"([{"title": "T", "text": "x"}])";
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", named).value(), "T");
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", {}).value(), "file");
}

TEST_F(TokenizerFolderTest, ABrokenChatTemplateFailsOnlyItsUser) {
  Write("tokenizer.json", kTinyTokenizer);
  Write("tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  const auto tokenizer = Load().value();
  EXPECT_EQ(tokenizer->ApplyChatTemplate("[]", {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(tokenizer->ApplyChatTemplate("[]", {}).status()),
              HasSubstr("tokenizer_config.json: chat_template: "));
}

TEST_F(TokenizerFolderTest, AModelsOwnSpecialTokensAreVariablesOfItsTemplate) {
  Write("tokenizer.json", kTinyTokenizer);
  Write("tokenizer_config.json", R"({"extra_special_tokens": {"image_token": "<image>"},
      "chat_template": "{{ image_token }}"})");
  EXPECT_EQ(Load().value()->ApplyChatTemplate("[]", {}).value(), "<image>");
}

TEST(Stories260kTest, Loads) {
  if (TestData().empty()) GTEST_SKIP() << "no test data (ROLLCALL_TEST_DATA)";
  const auto tokenizer = Tokenizer::Load((TestData() / "stories260k").string()).value();
  EXPECT_EQ(tokenizer->vocab_size(), 512u);
  EXPECT_EQ(tokenizer->bos_id(), 1u);
  EXPECT_THAT(tokenizer->eos_ids(), ElementsAre(2));
}

// Every string of the golden set, for each of its tokenizers.
class GoldenTokenizerTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (TestData().empty()) GTEST_SKIP() << "no test data (ROLLCALL_TEST_DATA)";
    const fs::path folder = TestData() / "golden/text/tokenizers";
    strings_ = json::parse(Contents(folder / "strings.json"));
    const std::string lines = Contents(folder / GetParam() / "expected.jsonl");
    for (size_t begin = 0; begin < lines.size();) {
      const size_t end = lines.find('\n', begin);
      cases_.push_back(json::parse(lines.substr(begin, end - begin)));
      begin = end == std::string::npos ? lines.size() : end + 1;
    }
    ASSERT_EQ(cases_.size(), 205u);
    tokenizer_ = Tokenizer::Load((folder / GetParam()).string()).value();
  }

  std::string Text(const json& golden) const { return strings_[golden["i"].get<size_t>()]; }

  json strings_;
  std::vector<json> cases_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

// Offset in bytes to offset in characters.
size_t Characters(const std::string& text, size_t bytes) {
  return std::count_if(text.begin(), text.begin() + bytes,
                       [](char c) { return (c & 0xC0) != 0x80; });
}

TEST_P(GoldenTokenizerTest, Encodes) {
  for (const json& golden : cases_) {
    SCOPED_TRACE(golden["i"]);
    const std::string text = Text(golden);
    EXPECT_EQ(tokenizer_->Encode(text, false).value(), golden["ids"].get<std::vector<uint32_t>>());
    EXPECT_EQ(tokenizer_->Encode(text, true).value(),
              golden["ids_with_special"].get<std::vector<uint32_t>>());
    const Encoding encoding = tokenizer_->EncodeWithOffsets(text, false).value();
    EXPECT_EQ(encoding.ids, golden["ids"].get<std::vector<uint32_t>>());
    json offsets = json::array();
    for (const Encoding::Offset& offset : encoding.offsets) {
      offsets.push_back({Characters(text, offset.begin), Characters(text, offset.end)});
    }
    // Long texts have none recorded.
    EXPECT_EQ(offsets, golden.value("offsets", offsets));
  }
}

TEST_P(GoldenTokenizerTest, Decodes) {
  for (const json& golden : cases_) {
    SCOPED_TRACE(golden["i"]);
    const auto ids = golden["ids"].get<std::vector<uint32_t>>();
    const auto with_special = golden["ids_with_special"].get<std::vector<uint32_t>>();
    EXPECT_EQ(tokenizer_->Decode(ids, false).value(), golden["decoded"]);
    EXPECT_EQ(tokenizer_->Decode(with_special, true).value(), golden["decoded_skip_special"]);
  }
}

TEST_P(GoldenTokenizerTest, Streams) {
  size_t streamed = 0;
  for (const json& golden : cases_) {
    if (!golden.contains("stream") || golden["stream"].is_null()) continue;
    SCOPED_TRACE(golden["i"]);
    const auto ids = golden["ids_with_special"].get<std::vector<uint32_t>>();
    for (const bool skip_special : {false, true}) {
      StreamDecoder stream = tokenizer_->NewStream(skip_special);
      json texts = json::array();
      std::string joined;
      for (const uint32_t id : ids) {
        const std::string text = stream.Step(id).value();
        joined += text;
        texts.push_back(text.empty() ? json(nullptr) : json(text));
      }
      joined += stream.Flush().value();
      EXPECT_EQ(texts, golden[skip_special ? "stream_skip_special" : "stream"]);
      EXPECT_EQ(joined, tokenizer_->Decode(ids, skip_special).value());
    }
    ++streamed;
  }
  EXPECT_EQ(streamed, 202u);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTokenizerTest,
                         ::testing::Values("stories260k", "llama2_spm_bpe_legacy",
                                           "mistral_spm_bpe_metaspace", "gpt2_bytelevel",
                                           "qwen2_bytelevel_nfc", "llama3_bytelevel", "t5_unigram"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace rollcall::text
