// What a stranger's model folder may hold: garbage, mutations of real files. Every outcome is a
// status that names the file; nothing crashes, hangs or panics across the crate's boundary.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "common/base/philox.h"
#include "common/text/text_test_data.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace rollcall::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

// Uses whatever loaded; every status is fine.
void Exercise(const Tokenizer& tokenizer) {
  for (const char* text :
       {"", "ab c€ 12", "<s>a</s>", "don't\n\n  \xF0\x9F\x98\x80 a", "aaaaaaaa"}) {
    const auto encoding = tokenizer.EncodeWithOffsets(text, true);
    if (!encoding.ok()) continue;
    tokenizer.Decode(encoding->ids, false).IgnoreError();
    StreamDecoder stream = tokenizer.NewStream(true);
    for (const uint32_t id : encoding->ids) stream.Step(id).IgnoreError();
    stream.Flush().IgnoreError();
  }
  tokenizer.Decode(std::vector<uint32_t>{0, 5, 4'000'000'000u}, true).IgnoreError();
  tokenizer.TokenToId("ab");
  tokenizer.IdToToken(0xFFFFFFFFu);
  EXPECT_LE(tokenizer.vocab_size(), 2'000'000u);
}

class HostileTextTest : public ::testing::Test {
 protected:
  HostileTextTest() {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~HostileTextTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }

  // Loads the folder and, where that works, uses it. The status is OK or names a file of it.
  absl::Status LoadAndUse() {
    const auto tokenizer = Tokenizer::Load(folder_.string());
    if (tokenizer.ok()) {
      Exercise(**tokenizer);
      return absl::OkStatus();
    }
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(".json"));
    EXPECT_LT(tokenizer.status().message().size(), 1500u);
    return tokenizer.status();
  }

  PhiloxStream random_{7, 1};
  const fs::path folder_ = fs::path(::testing::TempDir()) / "rollcall_hostile_text";
};

// A wrong value: of another type, or of the right one and absurd.
json Absurd(PhiloxStream& random) {
  const std::vector<json> values = {nullptr,
                                    true,
                                    -1,
                                    0,
                                    4294967295u,
                                    18446744073709551615u,
                                    1e308,
                                    -0.5,
                                    "",
                                    "\xEF\xBF\xBD(?:(a+)+)+$",
                                    std::string(5000, 'a'),
                                    json::array(),
                                    json::object(),
                                    json::array({json::array(), nullptr, "a"}),
                                    "BPE",
                                    "Unigram",
                                    "[",
                                    "(?<!a"};
  return values[random.Below(values.size())];
}

// Puts something else, or nothing, into one place of a document.
void MutateValue(json& root, PhiloxStream& random) {
  json* at = &root;
  while (at->is_structured() && !at->empty() && random.Below(5) != 0) {
    const auto chosen = std::next(at->begin(), static_cast<ptrdiff_t>(random.Below(at->size())));
    if (random.Below(12) == 0) {
      at->erase(chosen);
      return;
    }
    at = &*chosen;
  }
  *at = Absurd(random);
}

void MutateBytes(std::string& text, PhiloxStream& random) {
  if (text.empty()) return;
  const size_t at = random.Below(text.size());
  switch (random.Below(5)) {
    case 0:
      text[at] = static_cast<char>(random.Below(256));
      break;
    case 1:
      text.resize(at);
      break;
    case 2:
      text.erase(at, 1 + random.Below(40));
      break;
    case 3:
      text.insert(at, text.substr(random.Below(text.size()), 1 + random.Below(60)));
      break;
    default:
      text[at] = static_cast<char>(text[at] ^ (1 << random.Below(8)));
  }
}

TEST_F(HostileTextTest, GarbageIsRefused) {
  std::string noise(100'000, '\0');
  for (char& byte : noise) byte = static_cast<char>(random_.Below(256));
  std::string letters = noise;
  for (char& byte : letters) byte = static_cast<char>(' ' + (byte & 63));
  const std::string tiny = kTinyTokenizer;
  for (const std::string& bad :
       {noise, letters, std::string(100'000, '['), std::string(100'000, '\0'), std::string(),
        "{\"model\": " + std::string(100'000, '{'), tiny.substr(0, tiny.size() / 2),
        std::string("[1e999999]"), std::string("\xEF\xBB\xBF") + tiny.substr(0, 9)}) {
    Write("tokenizer.json", bad);
    EXPECT_FALSE(LoadAndUse().ok()) << bad.substr(0, 20);
  }
}

TEST_F(HostileTextTest, MutatedTokenizers) {
  std::vector<std::string> seeds = {kTinyTokenizer};
  if (!TestData().empty()) {
    for (const char* name : {"stories260k", "t5_unigram", "llama3_bytelevel"}) {
      seeds.push_back(Contents(TestData() / "golden/text/tokenizers" / name / "tokenizer.json"));
    }
  }
  size_t loaded = 0, refused = 0;
  for (size_t seed = 0; seed < seeds.size(); ++seed) {
    const json valid = json::parse(seeds[seed]);
    for (int i = 0; i < (seed == 0 ? 1000 : 40); ++i) {
      std::string text = seeds[seed];
      if (random_.Below(2) == 0) {
        json mutated = valid;
        for (uint64_t n = 1 + random_.Below(3); n > 0; --n) MutateValue(mutated, random_);
        text = mutated.dump(-1, ' ', false, json::error_handler_t::replace);
      } else {
        for (uint64_t n = 1 + random_.Below(4); n > 0; --n) MutateBytes(text, random_);
      }
      Write("tokenizer.json", text);
      ++(LoadAndUse().ok() ? loaded : refused);
      if (HasFailure()) FAIL() << "mutation " << i << " of seed " << seed << ": " << text;
    }
  }
  EXPECT_GT(loaded, 20u);
  EXPECT_GT(refused, 20u);
}

TEST_F(HostileTextTest, MutatedConfigurations) {
  const json valid = json::parse(R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>",
      "extra_special_tokens": {"image_token": "a"}, "bos_token_id": 0, "eos_token_id": [1, 2],
      "chat_template": [{"name": "default", "template": "{{ messages[0].content }}"}]})");
  const std::vector<std::string> names = {"tokenizer_config.json", "special_tokens_map.json",
                                          "generation_config.json", "config.json"};
  Write("tokenizer.json", kTinyTokenizer);
  size_t loaded = 0, refused = 0;
  for (int i = 0; i < 600; ++i) {
    json mutated = valid;
    MutateValue(mutated, random_);
    std::string text = mutated.dump(-1, ' ', false, json::error_handler_t::replace);
    if (random_.Below(3) == 0) MutateBytes(text, random_);
    const std::string& name = names[random_.Below(names.size())];
    Write(name, text);
    ++(LoadAndUse().ok() ? loaded : refused);
    fs::remove(folder_ / name);
    if (HasFailure()) FAIL() << "mutation " << i << " of " << name << ": " << text;
  }
  EXPECT_GT(loaded, 20u);
  EXPECT_GT(refused, 20u);
}

TEST_F(HostileTextTest, MutatedTemplates) {
  std::vector<std::string> seeds = {
      "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ m.role|upper }}:"
      "{% generation %}{{ m['content'].strip()[:5] ~ 'x' * 3 }}{% endgeneration %}{% endfor %}"};
  if (!TestData().empty()) {
    for (const char* name :
         {"qwen3-training", "llama-3.1", "gpt-oss", "deepseek-r1-distill-qwen"}) {
      seeds.push_back(
          Contents(TestData() / "golden/text/templates" / (std::string(name) + ".jinja")));
    }
  }
  const std::vector<std::string> pieces = {"{%",
                                           "%}",
                                           "{{",
                                           "}}",
                                           "{#",
                                           "#}",
                                           "for x in messages",
                                           "endfor",
                                           "{% generation %}",
                                           "if",
                                           "' * 99999999",
                                           "|",
                                           "messages",
                                           "[::-1]",
                                           "~",
                                           "range(99999)",
                                           "|tojson",
                                           ".split('')",
                                           "\xEF\xB7\x90",
                                           "\xFF",
                                           "{% macro a() %}{{ a() }}{% endmacro %}",
                                           "-",
                                           "\"",
                                           "'",
                                           "namespace("};
  size_t rendered = 0, refused = 0;
  for (int i = 0; i < 1200; ++i) {
    std::string text = seeds[static_cast<size_t>(i) % seeds.size()];
    for (uint64_t n = 1 + random_.Below(3); n > 0; --n) {
      if (random_.Below(2) == 0) {
        text.insert(random_.Below(text.size() + 1), pieces[random_.Below(pieces.size())]);
      } else {
        MutateBytes(text, random_);
      }
    }
    const auto chat = ChatTemplate::Compile(text, {{"bos_token", "<s>"}});
    absl::Status status = chat.status();
    if (chat.ok()) {
      status = (*chat)
                   ->Render(R"([{"role": "user", "content": "Hi there."},)"
                            R"( {"role": "assistant", "content": "<think>a</think>b"}])",
                            {})
                   .status();
    }
    ++(status.ok() ? rendered : refused);
    ASSERT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status << "\n" << text;
  }
  EXPECT_GT(rendered, 20u);
  EXPECT_GT(refused, 20u);
}

}  // namespace
}  // namespace rollcall::text
