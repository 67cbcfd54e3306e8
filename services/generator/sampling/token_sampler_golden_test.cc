// Truncation against what transformers' logits processors kept (golden/generation/filters).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "services/generator/sampling/token_sampler.h"

namespace rollcall::generator {
namespace {

struct Tensors {
  std::map<std::string, std::vector<float>> floats;
  std::map<std::string, std::vector<uint32_t>> tokens;
};

// The few tensors of the golden file. Written by us, so read without the checks of a real reader.
Tensors ReadTensors(const std::string& bytes) {
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size));
  Tensors tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const uint64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    const char* const data = bytes.data() + 8 + header_size + begin;
    if (entry["dtype"] == "F32") {
      std::vector<float>& values = tensors.floats[name];
      values.resize((end - begin) / 4);
      std::memcpy(values.data(), data, end - begin);
    } else if (entry["dtype"] == "I64") {
      std::vector<int64_t> values((end - begin) / 8);
      std::memcpy(values.data(), data, end - begin);
      tensors.tokens[name].assign(values.begin(), values.end());
    }
  }
  return tensors;
}

TEST(TokenSamplerGoldenTest, KeepsWhatTransformersKeeps) {
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  const std::string folder = std::string(data == nullptr ? "" : data) + "/golden/generation/";
  const auto text = ReadFile(folder + "filters.json");
  const auto bytes = ReadFile(folder + "filters.safetensors");
  if (!text.ok() || !bytes.ok()) GTEST_SKIP() << "no golden data at " << folder;
  const auto tensors = ReadTensors(*bytes);
  const auto golden = nlohmann::json::parse(*text);

  TokenSampler sampler;
  int compared = 0;
  for (const auto& test_case : golden["cases"]) {
    const std::string name = test_case["name"];
    SCOPED_TRACE(name);
    const auto& settings = test_case["settings"];
    const SamplingOptions options{
        .temperature = settings.value("temperature", 1.0f),
        .top_k = settings.value("top_k", 0u),
        .top_p = settings.value("top_p", 1.0f),
        .min_p = settings.value("min_p", 0.0f),
        .rules = {.repetition_penalty = settings.value("repetition_penalty", 1.0f),
                  .no_repeat_ngram_size = settings.value("no_repeat_ngram_size", 0u)}};
    const std::string input = test_case["logits"];
    const auto& logits = tensors.floats.at("in/" + input);
    const std::vector<uint32_t>& history = tensors.tokens.at("history/" + input);
    const auto& expected = tensors.floats.at("probs/" + name);
    const auto kept = sampler.KeptTokens(logits, options, {.prompt = history, .completion = {}});
    ASSERT_TRUE(kept.ok()) << kept.status();
    ++compared;
    if (!test_case["top_p_margin"].is_null() && test_case["top_p_margin"] < 1e-6) continue;

    std::vector<double> ours(logits.size(), 0.0);
    for (size_t i = 0; i < kept->tokens.size(); ++i) ours[kept->tokens[i]] = kept->probabilities[i];
    std::vector<float> theirs = expected;
    if (test_case["ties_at_boundary"]) {
      // Which of the tied tokens stays is the sort's choice.
      EXPECT_EQ(kept->tokens.size(), test_case["kept_count"]);
      std::sort(ours.begin(), ours.end());
      std::sort(theirs.begin(), theirs.end());
    } else {
      const std::set<uint32_t> allowed = test_case["kept"];
      for (const uint32_t token : kept->tokens) EXPECT_TRUE(allowed.contains(token)) << token;
    }
    for (size_t i = 0; i < ours.size(); ++i) {
      EXPECT_NEAR(ours[i], theirs[i], 1e-5) << i;
      EXPECT_TRUE(theirs[i] == 0 || ours[i] > 0) << i;
    }
  }
  EXPECT_EQ(compared, 251);
}

}  // namespace
}  // namespace rollcall::generator
