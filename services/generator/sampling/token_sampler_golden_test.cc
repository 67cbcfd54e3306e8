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

// The few float32 tensors of the golden file. Written by us, so read without the checks of a real
// reader.
std::map<std::string, std::vector<float>> ReadTensors(const std::string& bytes) {
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size));
  std::map<std::string, std::vector<float>> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__" || entry["dtype"] != "F32") continue;
    const uint64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    std::vector<float> values((end - begin) / 4);
    std::memcpy(values.data(), bytes.data() + 8 + header_size + begin, end - begin);
    tensors[name] = std::move(values);
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
    if (settings.contains("repetition_penalty") || settings.contains("no_repeat_ngram_size"))
      continue;
    const SamplingOptions options{.temperature = settings.value("temperature", 1.0f),
                                  .top_k = settings.value("top_k", 0u),
                                  .top_p = settings.value("top_p", 1.0f),
                                  .min_p = settings.value("min_p", 0.0f)};
    const auto& logits = tensors.at("in/" + std::string(test_case["logits"]));
    const auto& expected = tensors.at("probs/" + name);
    const auto kept = sampler.KeptTokens(logits, options);
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
  EXPECT_EQ(compared, 204);
}

}  // namespace
}  // namespace rollcall::generator
