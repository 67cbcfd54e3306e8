// The Llama models of the golden numbers (what transformers computes) within the tolerances stated
// beside them, and the other families in bfloat16; rollcall verify compares all of them in full.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/file.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/model/scoring.h"
#include "common/model/test_models.h"

namespace rollcall::model {
namespace {

using testing::MaxDifference;
using Json = nlohmann::json;
using Tensors = std::map<std::string, at::Tensor>;

constexpr double kLogitTolerance = 1e-4;
constexpr double kLossTolerance = 1e-5;

std::string DataFolder() {
  const char* folder = std::getenv("ROLLCALL_TEST_DATA");
  return folder == nullptr ? "" : folder;
}

Decoder LoadDecoder(const std::string& folder, at::ScalarType dtype = at::kFloat) {
  auto checkpoint = checkpoint::HfFolder::Open(folder);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  auto config = ModelConfig::FromJson(checkpoint->config_json(), folder + "/config.json");
  EXPECT_TRUE(config.ok()) << config.status().message();
  auto decoder = Decoder::Create(*config, dtype, at::Device(at::kCPU));
  EXPECT_TRUE(decoder.ok()) << decoder.status().message();
  const absl::Status loaded = checkpoint::LoadParameters(*checkpoint, decoder->parameters());
  EXPECT_TRUE(loaded.ok()) << loaded.message();
  return *std::move(decoder);
}

at::Tensor HiddenOf(Decoder& decoder, const at::Tensor& tokens) {
  PackedAttention attention = *PackedAttention::Create({0, tokens.size(0)});
  return decoder.Forward(tokens, attention.Positions(), attention);
}

// Greedy decoding through the paged cache, one token a step.
at::Tensor Greedy(Decoder& decoder, const at::Tensor& prompt, int64_t count) {
  const at::NoGradGuard no_grad;
  const int64_t blocks = (prompt.size(0) + count + 15) / 16;
  KvCache cache =
      *KvCache::Create(decoder.config(), {blocks, 16}, decoder.dtype(), decoder.device());
  PagedSequence sequence;
  for (int32_t b = 0; b < blocks; ++b) sequence.block_table.push_back(b);
  std::vector<at::Tensor> generated;
  at::Tensor next = prompt;
  for (int64_t i = 0; i < count; ++i) {
    sequence.count = next.size(0);
    PagedAttention attention = *PagedAttention::Create(&cache, {sequence});
    const at::Tensor hidden = decoder.Forward(next, attention.Positions(), attention);
    sequence.start += sequence.count;
    next = at::argmax(decoder.Logits(hidden.narrow(0, hidden.size(0) - 1, 1)), -1);
    generated.push_back(next);
  }
  return at::cat(generated);
}

class GoldenModelTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string base = DataFolder() + "/golden/models/" + GetParam();
    if (!std::filesystem::exists(base)) GTEST_SKIP() << "no golden numbers at " << base;
    decoder_.emplace(LoadDecoder(base));
    expected_ = Json::parse(*ReadFile(base + ".expected.json"));
    tensors_ = *checkpoint::LoadTensors(base + ".expected.safetensors");
    for (int i = 0; i < 3; ++i) sequences_.push_back(tensors_.at(Name(i, "input_ids")));
  }

  static std::string Name(int sequence, const char* what) {
    return "seq" + std::to_string(sequence) + "." + what;
  }

  // Sum of the three sequences' cross-entropies over their predicted tokens, packed.
  at::Tensor MeanLoss() {
    std::vector<int64_t> cu_seqlens = {0};
    for (const at::Tensor& tokens : sequences_) {
      cu_seqlens.push_back(cu_seqlens.back() + tokens.size(0));
    }
    PackedAttention attention = *PackedAttention::Create(cu_seqlens);
    const at::Tensor tokens = at::cat(sequences_);
    const at::Tensor hidden = decoder_->Forward(tokens, attention.Positions(), attention);
    std::vector<at::Tensor> losses;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const int64_t predicted = sequences_[i].size(0) - 1;
      const TokenScores scores =
          *ScoreTokens(*decoder_, hidden.narrow(0, cu_seqlens[i], predicted),
                       sequences_[i].narrow(0, 1, predicted), 1.0, EntropyMode::kNone);
      losses.push_back(-scores.logprob);
    }
    return at::cat(losses).mean();
  }

  double GradientNorm() {
    double squares = 0;
    for (const auto& parameter : decoder_->parameters()) {
      squares += parameter.tensor.grad().to(at::kDouble).square().sum().item<double>();
    }
    return std::sqrt(squares);
  }

  std::optional<Decoder> decoder_;
  Json expected_;
  Tensors tensors_;
  std::vector<at::Tensor> sequences_;
};

TEST_P(GoldenModelTest, LogitsLogprobsEntropy) {
  const at::NoGradGuard no_grad;
  for (int i = 0; i < 3; ++i) {
    SCOPED_TRACE(Name(i, ""));
    const at::Tensor& tokens = sequences_[i];
    const int64_t predicted = tokens.size(0) - 1;
    const at::Tensor hidden = HiddenOf(*decoder_, tokens);
    EXPECT_LT(MaxDifference(decoder_->Logits(hidden), tensors_.at(Name(i, "logits"))),
              kLogitTolerance);
    for (const auto& [temperature, name] :
         {std::pair{1.0, "logprobs_t1.0"}, {0.7, "logprobs_t0.7"}}) {
      const TokenScores scores =
          *ScoreTokens(*decoder_, hidden.narrow(0, 0, predicted), tokens.narrow(0, 1, predicted),
                       temperature, EntropyMode::kNone);
      EXPECT_LT(MaxDifference(scores.logprob, tensors_.at(Name(i, name))), kLogitTolerance) << name;
      if (temperature == 1.0) {
        EXPECT_NEAR(-scores.logprob.mean().item<double>(),
                    expected_.at(Name(i, "").substr(0, 4)).at("mean_ce").get<double>(),
                    kLossTolerance);
      }
    }
    const TokenScores scores = *ScoreTokens(*decoder_, hidden, tokens, 1.0, EntropyMode::kDetached);
    EXPECT_LT(MaxDifference(scores.entropy, tensors_.at(Name(i, "entropy_t1.0"))), kLogitTolerance);
    const at::Tensor greedy = Greedy(*decoder_, tokens, 24);
    EXPECT_TRUE(testing::SameBits(greedy, tensors_.at(Name(i, "greedy"))));
  }
}

TEST_P(GoldenModelTest, Gradients) {
  decoder_->SetRequiresGrad(true);
  const at::Tensor loss = MeanLoss();
  EXPECT_NEAR(loss.item<double>(), expected_.at("token_mean_ce").get<double>(), kLossTolerance);
  loss.backward();
  const double norm = expected_.at("grad_norm");
  EXPECT_NEAR(GradientNorm(), norm, 1e-4 * norm);
  for (const auto& [name, tensor] : decoder_->parameters()) {
    SCOPED_TRACE(name);
    const Json& golden = expected_.at("grads").at(name);
    const at::Tensor gradient = tensor.grad().flatten();
    const double l2 = golden.at("l2");
    EXPECT_NEAR(gradient.to(at::kDouble).norm().item<double>(), l2, 1e-4 * l2);
    for (size_t i = 0; i < golden.at("sampled_value").size(); ++i) {
      const double value = golden.at("sampled_value")[i];
      const int64_t index = golden.at("sampled_flat_index")[i];
      EXPECT_NEAR(gradient[index].item<double>(), value, 1e-3 * std::abs(value) + 1e-6);
    }
    if (const auto full = tensors_.find("grad." + name); full != tensors_.end()) {
      const at::Tensor error = (tensor.grad() - full->second).abs();
      EXPECT_TRUE((error <= full->second.abs() * 1e-3 + 1e-6).all().item<bool>());
    }
  }
}

TEST_P(GoldenModelTest, FiveAdamWSteps) {
  decoder_->SetRequiresGrad(true);
  const Json& golden = expected_.at("adamw");
  std::vector<at::Tensor> parameters, first, second, none, steps;
  for (const auto& parameter : decoder_->parameters()) {
    parameters.push_back(parameter.tensor);
    first.push_back(at::zeros_like(parameter.tensor));
    second.push_back(at::zeros_like(parameter.tensor));
    steps.push_back(at::full({}, 0.0f));
  }
  for (const Json& step : golden.at("steps")) {
    const at::Tensor loss = MeanLoss();
    EXPECT_NEAR(loss.item<double>(), step.at("loss_before").get<double>(), 1e-4);
    loss.backward();
    const double norm = GradientNorm(), expected_norm = step.at("grad_norm_before_clip");
    EXPECT_NEAR(norm, expected_norm, 1e-4 * expected_norm);
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> gradients;
    for (at::Tensor& parameter : parameters) {
      gradients.push_back(parameter.grad().mul(std::min(1.0, 1.0 / (norm + 1e-6))));
    }
    for (at::Tensor& count : steps) count.add_(1.0);
    at::_fused_adamw_(parameters, gradients, first, second, none, steps, 1e-3, 0.9, 0.95, 0.01,
                      1e-8,
                      /*amsgrad=*/false, /*maximize=*/false);
    decoder_->ZeroGrad();
  }
  const at::NoGradGuard no_grad;
  EXPECT_NEAR(MeanLoss().item<double>(), golden.at("loss_after").get<double>(), 1e-4);
  // Adam makes a whole step of a gradient at noise level: a few entries may lie further off.
  int outliers = 0, entries = 0;
  for (const auto& [name, tensor] : decoder_->parameters()) {
    const Json& after = golden.at("params_after").at(name);
    const double l2 = after.at("l2");
    EXPECT_NEAR(tensor.detach().to(at::kDouble).norm().item<double>(), l2, 1e-5 * l2) << name;
    for (size_t i = 0; i < after.at("sampled_value").size(); ++i, ++entries) {
      const int64_t index = after.at("sampled_flat_index")[i];
      const double value = tensor.detach().flatten()[index].item<double>();
      if (std::abs(value - after.at("sampled_value")[i].get<double>()) > 2e-5) ++outliers;
    }
  }
  EXPECT_LE(outliers, 3) << "of " << entries;
}

// Every language model of the golden numbers.
class GoldenFamilyTest : public GoldenModelTest {};

TEST_P(GoldenFamilyTest, Bfloat16StaysNear) {
  const at::NoGradGuard no_grad;
  Decoder decoder = LoadDecoder(DataFolder() + "/golden/models/" + GetParam(), at::kBFloat16);
  const at::Tensor& tokens = sequences_[2];
  const at::Tensor hidden = HiddenOf(decoder, tokens);
  const int64_t predicted = tokens.size(0) - 1;
  const TokenScores scores = *ScoreTokens(decoder, hidden.narrow(0, 0, predicted),
                                          tokens.narrow(0, 1, predicted), 1.0, EntropyMode::kNone);
  // Our bfloat16 rounds less often than the reference's, so it may not lie further from float32
  // than that one does.
  const at::Tensor& exact = tensors_.at(Name(2, "logprobs_t1.0"));
  const double ours = (scores.logprob - exact).abs().mean().item<double>();
  const double theirs =
      (tensors_.at(Name(2, "bf16_logprobs_t1.0")) - exact).abs().mean().item<double>();
  EXPECT_LT(ours, 1.5 * theirs);
  EXPECT_GT(ours, 0.0);
}

INSTANTIATE_TEST_SUITE_P(Llama, GoldenModelTest, ::testing::Values("llama_rope3", "llama_tied"),
                         [](const auto& model) { return std::string(model.param); });

INSTANTIATE_TEST_SUITE_P(All, GoldenFamilyTest,
                         ::testing::Values("llama_rope3", "llama_tied", "mistral", "qwen2", "qwen3",
                                           "gemma2", "gemma3_text", "phi3", "olmo2", "qwen3_moe",
                                           "mixtral"),
                         [](const auto& model) { return std::string(model.param); });

TEST(GoldenGenerationTest, Stories260k) {
  const std::string folder = DataFolder() + "/stories260k";
  const std::string golden = DataFolder() + "/golden/generation/stories260k.safetensors";
  if (!std::filesystem::exists(folder) || !std::filesystem::exists(golden)) {
    GTEST_SKIP() << "no checkpoint at " << folder << " or no numbers at " << golden;
  }
  const at::NoGradGuard no_grad;
  Decoder decoder = LoadDecoder(folder);
  const Tensors tensors = *checkpoint::LoadTensors(golden);
  for (int i = 0; i < 8; ++i) {
    const std::string prefix = "prompt" + std::to_string(i) + ".";
    SCOPED_TRACE(prefix);
    const at::Tensor& prompt = tensors.at(prefix + "ids");
    const at::Tensor& continuation = tensors.at(prefix + "continuation");
    EXPECT_TRUE(testing::SameBits(Greedy(decoder, prompt, 128), tensors.at(prefix + "greedy")));
    const at::Tensor hidden =
        HiddenOf(decoder, at::cat({prompt, continuation})).narrow(0, prompt.size(0) - 1, 128);
    for (const auto& [temperature, name] :
         {std::pair{1.0, "logprobs_t1.0"}, {0.7, "logprobs_t0.7"}}) {
      const TokenScores scores =
          *ScoreTokens(decoder, hidden, continuation, temperature, EntropyMode::kDetached);
      EXPECT_LT(MaxDifference(scores.logprob, tensors.at(prefix + name)), 1e-4) << name;
      if (temperature == 1.0) {
        EXPECT_LT(MaxDifference(scores.entropy, tensors.at(prefix + "entropy_t1.0")), 1e-4);
      }
    }
  }
}

}  // namespace
}  // namespace rollcall::model
