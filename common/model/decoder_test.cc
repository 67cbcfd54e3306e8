#include "common/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/model/scoring.h"
#include "common/model/test_models.h"

namespace rollcall::model {
namespace {

using testing::MaxDifference;
using testing::RandomDecoder;
using testing::RandomTokens;
using testing::RelativeDifference;
using testing::SameBits;
using testing::SmallConfig;

struct Outcome {
  at::Tensor hidden, logprob, entropy;
  std::vector<at::Tensor> gradients;
};

Outcome RunOnce(Decoder& decoder, const at::Tensor& tokens,
                const std::vector<int64_t>& cu_seqlens) {
  decoder.SetRequiresGrad(true);
  PackedAttention attention = *PackedAttention::Create(cu_seqlens);
  Outcome run;
  run.hidden = decoder.Forward(tokens, attention.Positions(), attention);
  const TokenScores scores =
      *ScoreTokens(decoder, run.hidden, tokens.roll(-1), 0.8, EntropyMode::kDifferentiable);
  PhiloxStream random(3, 3);
  const at::Tensor weights = testing::RandomNormal({tokens.size(0)}, random);
  ((scores.logprob * weights).sum() + (scores.entropy * weights).sum() * 0.5).backward();
  run.logprob = scores.logprob;
  run.entropy = scores.entropy;
  for (const auto& parameter : decoder.parameters()) {
    run.gradients.push_back(parameter.tensor.grad().clone());
  }
  decoder.ZeroGrad();
  return run;
}

class BackendTest : public ::testing::TestWithParam<bool> {};

// Kernels against plain LibTorch with its own autograd: the same model to float32 rounding.
TEST_P(BackendTest, KernelsAgreeWithLibTorch) {
  ModelConfig config = SmallConfig();
  config.tie_word_embeddings = GetParam();
  Decoder kernels = RandomDecoder(config, at::kFloat, 21);
  Decoder reference = RandomDecoder(config, at::kFloat, 21, Backend::kAten);
  PhiloxStream random(1, 1);
  const at::Tensor tokens = RandomTokens(140, config.vocab_size, random);
  const std::vector<int64_t> cu_seqlens = {0, 3, 40, 41, 140};
  const Outcome a = RunOnce(kernels, tokens, cu_seqlens);
  const Outcome b = RunOnce(reference, tokens, cu_seqlens);
  EXPECT_LT(MaxDifference(a.hidden, b.hidden), 2e-5);
  EXPECT_LT(MaxDifference(a.logprob, b.logprob), 5e-5);
  EXPECT_LT(MaxDifference(a.entropy, b.entropy), 5e-5);
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    EXPECT_LT(RelativeDifference(a.gradients[i], b.gradients[i]), 2e-5)
        << kernels.parameters()[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(TiedAndUntied, BackendTest, ::testing::Bool());

TEST(DecoderTest, Bfloat16FollowsLibTorch) {
  Decoder kernels = RandomDecoder(SmallConfig(), at::kBFloat16, 21);
  Decoder reference = RandomDecoder(SmallConfig(), at::kBFloat16, 21, Backend::kAten);
  PhiloxStream random(1, 1);
  const at::Tensor tokens = RandomTokens(60, 77, random);
  const Outcome a = RunOnce(kernels, tokens, {0, 25, 60});
  const Outcome b = RunOnce(reference, tokens, {0, 25, 60});
  // Two bfloat16 programs that round at the same places but sum differently.
  EXPECT_LT(MaxDifference(a.logprob, b.logprob), 0.1);
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    EXPECT_LT(RelativeDifference(a.gradients[i], b.gradients[i]), 0.06)
        << kernels.parameters()[i].name;
    EXPECT_EQ(a.gradients[i].scalar_type(), at::kFloat);
  }
}

at::Tensor LogitsOf(Decoder& decoder, const at::Tensor& tokens) {
  PackedAttention attention = *PackedAttention::Create({0, tokens.size(0)});
  return decoder.Logits(decoder.Forward(tokens, attention.Positions(), attention)).clone();
}

// Changes a matrix through its raw pointer, as optimizers do that move no version counter.
void ScaleFirstMatrix(Decoder& decoder, float factor) {
  for (const auto& parameter : decoder.parameters()) {
    if (parameter.name != "model.layers.0.self_attn.v_proj.weight") continue;
    float* data = parameter.tensor.mutable_data_ptr<float>();
    for (int64_t i = 0; i < parameter.tensor.numel(); ++i) data[i] *= factor;
  }
}

TEST(DecoderTest, PackedCopiesFollowTheParameters) {
  Decoder decoder = RandomDecoder(SmallConfig(), at::kFloat, 5);
  PhiloxStream random(1, 1);
  const at::Tensor tokens = RandomTokens(10, 77, random);
  const at::NoGradGuard no_grad;
  const at::Tensor before = LogitsOf(decoder, tokens);

  decoder.SetRequiresGrad(true);
  ScaleFirstMatrix(decoder, 2.0f);
  const at::Tensor scaled = LogitsOf(decoder, tokens);
  EXPECT_GT(MaxDifference(scaled, before), 1e-3) << "a training decoder packs every time";
  decoder.SetRequiresGrad(false);
  ScaleFirstMatrix(decoder, 0.5f);
  EXPECT_TRUE(SameBits(LogitsOf(decoder, tokens), before)) << "SetRequiresGrad invalidates";

  ScaleFirstMatrix(decoder, 2.0f);
  decoder.InvalidatePacked();
  EXPECT_TRUE(SameBits(LogitsOf(decoder, tokens), scaled));
  for (const auto& parameter : decoder.parameters()) {
    if (parameter.name == "model.layers.0.self_attn.v_proj.weight") parameter.tensor.mul_(0.5);
  }
  EXPECT_TRUE(SameBits(LogitsOf(decoder, tokens), before)) << "the version counter is noticed";
}

TEST(DecoderTest, ParametersInCanonicalOrder) {
  ModelConfig config = SmallConfig();
  config.num_layers = 1;
  const Decoder decoder = RandomDecoder(config, at::kFloat, 1);
  std::vector<std::string> names;
  int64_t count = 0;
  for (const auto& parameter : decoder.parameters()) {
    names.push_back(parameter.name);
    count += parameter.tensor.numel();
  }
  EXPECT_THAT(
      names, ::testing::ElementsAre(
                 "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                 "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
                 "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight",
                 "model.layers.0.post_attention_layernorm.weight",
                 "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
                 "model.layers.0.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"));
  EXPECT_EQ(count, config.ParameterCount());
}

TEST(DecoderTest, InitializationIsSeededAndScaled) {
  ModelConfig config = SmallConfig();
  config.hidden_size = 256;
  Decoder a = *Decoder::Create(config, at::kFloat, at::Device(at::kCPU));
  Decoder b = *Decoder::Create(config, at::kFloat, at::Device(at::kCPU));
  a.InitializeRandom(3);
  b.InitializeRandom(3);
  for (size_t i = 0; i < a.parameters().size(); ++i) {
    const auto& [name, tensor] = a.parameters()[i];
    EXPECT_TRUE(SameBits(tensor, b.parameters()[i].tensor)) << name;
    const double deviation = tensor.dim() == 1 ? 0.0 : tensor.std().item<double>();
    double expected = 0.0;
    if (tensor.dim() == 2) expected = 1 / std::sqrt(static_cast<double>(tensor.size(1)));
    if (name == "model.embed_tokens.weight" || name == "lm_head.weight") expected = 0.02;
    if (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight")) expected /= 2;
    EXPECT_NEAR(deviation, expected, 0.03 * expected) << name;
  }
  b.InitializeRandom(4);
  EXPECT_FALSE(SameBits(a.parameters()[0].tensor, b.parameters()[0].tensor));
}

TEST(DecoderTest, ScoresDoNotDependOnTheChunks) {
  // 2^22 / 40,000 logits are 104 rows, so 300 rows run in three chunks of 128.
  ModelConfig config = SmallConfig();
  config.vocab_size = 40000;
  Decoder decoder = RandomDecoder(config, at::kFloat, 2);
  PhiloxStream random(1, 1);
  const at::Tensor hidden = testing::RandomNormal({300, config.hidden_size}, random);
  const at::Tensor targets = RandomTokens(300, config.vocab_size, random);
  hidden.requires_grad_(true);
  const TokenScores all = *ScoreTokens(decoder, hidden, targets, 1.0, EntropyMode::kDetached);
  all.logprob.sum().backward();
  const at::Tensor gradient = hidden.grad().clone();
  EXPECT_FALSE(all.entropy.requires_grad());
  for (int64_t row : {0, 127, 128, 299}) {
    hidden.mutable_grad() = at::Tensor();
    const TokenScores one = *ScoreTokens(decoder, hidden.narrow(0, row, 1),
                                         targets.narrow(0, row, 1), 1.0, EntropyMode::kDetached);
    EXPECT_TRUE(SameBits(one.logprob, all.logprob.narrow(0, row, 1)));
    EXPECT_TRUE(SameBits(one.entropy, all.entropy.narrow(0, row, 1)));
    one.logprob.sum().backward();
    EXPECT_TRUE(SameBits(hidden.grad()[row], gradient[row]));
  }
}

TEST(DecoderTest, ARopeThatDependsOnTheContextRefusesPositionsBeyondIt) {
  ModelConfig config = SmallConfig();
  config.rope.scaling = {
      .type = RopeScaling::Type::kDynamic, .factor = 2.0, .original_max_position_embeddings = 8};
  config.SetContext(8);
  Decoder decoder = RandomDecoder(config, at::kFloat, 5);
  PhiloxStream random(1, 1);
  const at::Tensor tokens = RandomTokens(9, 77, random);
  const at::NoGradGuard no_grad;
  const at::Tensor before = LogitsOf(decoder, tokens.narrow(0, 0, 8));
  EXPECT_THROW(LogitsOf(decoder, tokens), c10::IndexError);
  decoder.SetContext(9);
  EXPECT_GT(MaxDifference(LogitsOf(decoder, tokens).narrow(0, 0, 8), before), 1e-3);
}

TEST(DecoderTest, BadRequestsAreStatuses) {
  Decoder decoder = RandomDecoder(SmallConfig(), at::kFloat, 2);
  PhiloxStream random(1, 1);
  const at::Tensor hidden = testing::RandomNormal({3, 72}, random);
  const at::Tensor targets = RandomTokens(3, 77, random);
  for (double temperature : {0.0, -1.0, std::nan("")}) {
    EXPECT_EQ(
        ScoreTokens(decoder, hidden, targets, temperature, EntropyMode::kNone).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(ScoreTokens(decoder, hidden, targets + 77, 1.0, EntropyMode::kNone).ok());
  EXPECT_FALSE(ScoreTokens(decoder, hidden.narrow(0, 0, 2), targets, 1.0, EntropyMode::kNone).ok());
  EXPECT_FALSE(Decoder::Create(SmallConfig(), at::kHalf, at::Device(at::kCPU)).ok());

  EXPECT_FALSE(PackedAttention::Create({0}).ok());
  EXPECT_FALSE(PackedAttention::Create({1, 4}).ok());
  EXPECT_FALSE(PackedAttention::Create({0, 4, 4}).ok());

  const at::Device cpu(at::kCPU);
  EXPECT_FALSE(KvCache::Create(SmallConfig(), {4, 8}, at::kFloat, cpu).ok());
  EXPECT_FALSE(KvCache::Create(SmallConfig(), {0, 16}, at::kFloat, cpu).ok());
  KvCache cache = *KvCache::Create(SmallConfig(), {4, 16}, at::kFloat, cpu);
  EXPECT_FALSE(PagedAttention::Create(&cache, {}).ok());
  EXPECT_FALSE(PagedAttention::Create(&cache, {{{0}, 0, 0}}).ok());
  EXPECT_FALSE(PagedAttention::Create(&cache, {{{0}, 10, 7}}).ok()) << "17 tokens in one block";
  EXPECT_FALSE(PagedAttention::Create(&cache, {{{4}, 0, 1}}).ok()) << "no such block";
  EXPECT_FALSE(PagedAttention::Create(&cache, {{{1}, 3, 1}, {{1}, 3, 1}}).ok()) << "both write";
  EXPECT_TRUE(PagedAttention::Create(&cache, {{{1, 2}, 16, 1}, {{1, 3}, 16, 1}}).ok());
}

}  // namespace
}  // namespace rollcall::model
