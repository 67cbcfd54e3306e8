#include "services/generator/testing/tiny_model.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_writer.h"
#include "common/model/attention_context.h"
#include "common/model/scoring.h"
#include "common/model/test_models.h"

namespace rollcall::generator::testing {
namespace {

// Words split at spaces, one token each.
std::string TokenizerJson(int64_t vocab) {
  nlohmann::json words = nlohmann::json::object();
  for (int64_t i = 0; i < vocab; ++i) words[absl::StrCat("w", i)] = i;
  const nlohmann::json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", nlohmann::json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
      {"post_processor", nullptr},
      {"decoder", nullptr},
      {"model", {{"type", "WordLevel"}, {"vocab", words}, {"unk_token", "w0"}}}};
  return json.dump();
}

at::Tensor Int64Tensor(const std::vector<int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

}  // namespace

model::Decoder TinyDecoder(at::ScalarType dtype, uint64_t seed) {
  model::ModelConfig config = model::testing::SmallConfig();
  config.max_position_embeddings = 512;
  return model::testing::RandomDecoder(config, dtype, seed);
}

absl::Status WriteTinyFolder(const std::string& path, const model::Decoder& decoder) {
  checkpoint::HfFolderSpec spec;
  spec.config_json = decoder.config().ToJson();
  spec.tensors = decoder.parameters();
  ROLLCALL_RETURN_IF_ERROR(checkpoint::WriteHfFolder(path, spec));
  return WriteFileAtomically(path + "/tokenizer.json", TokenizerJson(decoder.config().vocab_size));
}

std::vector<std::vector<float>> LearnerLogProbs(model::Decoder& decoder,
                                                const std::vector<ScoredSequence>& sequences,
                                                double temperature, bool backward) {
  std::vector<int64_t> ids, starts = {0}, rows, targets;
  for (const ScoredSequence& sequence : sequences) {
    for (size_t t = 0; t < sequence.tokens.size(); ++t) {
      if (t >= sequence.prompt_tokens) {
        rows.push_back(static_cast<int64_t>(ids.size()) - 1);
        targets.push_back(sequence.tokens[t]);
      }
      ids.push_back(sequence.tokens[t]);
    }
    starts.push_back(static_cast<int64_t>(ids.size()));
  }
  decoder.SetRequiresGrad(true);
  const at::AutoGradMode grad(true);
  model::PackedAttention attention = *model::PackedAttention::Create(starts);
  const at::Tensor hidden = decoder.Forward(Int64Tensor(ids), attention.Positions(), attention);
  const model::TokenScores scores =
      *model::ScoreTokens(decoder, hidden.index_select(0, Int64Tensor(rows)), Int64Tensor(targets),
                          temperature, model::EntropyMode::kNone);
  EXPECT_TRUE(scores.logprob.requires_grad());
  if (backward) scores.logprob.sum().backward();
  std::vector<std::vector<float>> result;
  const float* next = scores.logprob.const_data_ptr<float>();
  for (const ScoredSequence& sequence : sequences) {
    const size_t count = sequence.tokens.size() - sequence.prompt_tokens;
    result.emplace_back(next, next + count);
    next += count;
  }
  return result;
}

}  // namespace rollcall::generator::testing
