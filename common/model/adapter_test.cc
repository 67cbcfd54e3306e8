// Low-rank adapters: the arithmetic against numbers worked by hand, gradients against LibTorch's and
// against finite differences, and what must not change.

#include "common/model/adapter.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/model/families/family.h"
#include "common/model/parameter_list.h"
#include "common/model/random_config.h"
#include "common/model/scoring.h"
#include "common/model/test_models.h"
#include "common/model/test_runs.h"

namespace rollcall::model {
namespace {

using testing::Batch;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MaxDifference;
using testing::RandomConfigJson;
using testing::RandomDecoder;
using testing::RelativeDifference;
using testing::RunPacked;
using testing::RunPaged;
using testing::SameBits;
using testing::SmallConfig;

at::Tensor Values(const std::vector<float>& values, at::IntArrayRef shape) {
  return at::tensor(values).view(shape);
}

TEST(AdaptedLinearsTest, HandWorkedProductAndGradients) {
  Matrix plain(Values({1, -1, 0, 2}, {2, 2})), adapted(Values({1, 2, 3, 4, 5, 6}, {3, 2}));
  adapted.set_bias(Values({10, 20, 30}, {3}));
  const auto adapter = std::make_shared<Adapter>();
  const at::Tensor a = Values({1, 1}, {1, 2}).requires_grad_(true);
  const at::Tensor b = Values({1, 0, 2}, {3, 1}).requires_grad_(true);
  adapter->down = Matrix(a);
  adapter->up = Matrix(b);
  adapter->scale = 0.5f;
  adapted.set_adapter(adapter);
  const at::Tensor x = Values({1, 2, -1, 4}, {2, 2}).requires_grad_(true);

  const std::vector<at::Tensor> ys = AdaptedLinears(x, {&adapted, &plain}, at::kFloat);
  // x A^T = {3, 3}, halved 1.5 each, times B {1, 0, 2}: {1.5, 0, 3} beside W x + bias.
  EXPECT_TRUE(SameBits(ys[0], Values({16.5, 31, 50, 18.5, 33, 52}, {2, 3})));
  EXPECT_TRUE(SameBits(ys[1], Values({-1, 4, -5, 8}, {2, 2})));

  // dy of ones for the first, of {1, 0} for the second.
  (ys[0].sum() + ys[1].select(1, 0).sum()).backward();
  // scale dy B = 0.5 * 3 = 1.5 in each row: dA = 1.5 * (x_1 + x_2), dB = sum of 1.5 per row.
  EXPECT_TRUE(SameBits(a.grad(), Values({0, 9}, {1, 2})));
  EXPECT_TRUE(SameBits(b.grad(), Values({3, 3, 3}, {3, 1})));
  // Column sums of W {9, 12}, 1.5 A, and the plain matrix' first row.
  EXPECT_TRUE(SameBits(x.grad(), Values({11.5, 12.5, 11.5, 12.5}, {2, 2})));
  EXPECT_FALSE(adapted.weight().grad().defined());
  EXPECT_FALSE(adapted.bias().grad().defined());
}

LoraConfig Lora(std::vector<std::string> targets = {}, int64_t r = 3) {
  return {
      .r = r, .alpha = 8, .rslora = true, .target_modules = std::move(targets), .base_model = ""};
}

// An adapter whose B is not zero.
void AddRandomAdapter(Decoder& decoder, const LoraConfig& lora, uint64_t seed = 4) {
  ASSERT_TRUE(decoder.AddAdapter(lora).ok());
  decoder.InitializeAdapter(seed);
  const at::NoGradGuard no_grad;
  PhiloxStream random(seed, 2000);
  for (const auto& [name, tensor] : decoder.adapter_parameters()) {
    if (name.find("lora_B") == std::string::npos) continue;
    tensor.copy_(testing::RandomNormal(tensor.sizes(), random).mul_(0.1));
  }
}

at::Tensor LossOf(Decoder& decoder, const Batch& batch) {
  PackedAttention attention = *PackedAttention::Create(batch.cu_seqlens);
  const at::Tensor tokens = batch.Tokens();
  const at::Tensor hidden = decoder.Forward(tokens, attention.Positions(), attention);
  PhiloxStream random(3, 3);
  const at::Tensor weights = testing::RandomNormal({tokens.size(0)}, random);
  if (decoder.config().head != Head::kLanguageModel) {
    return (decoder.Values(hidden) * weights).sum();
  }
  const TokenScores scores =
      *ScoreTokens(decoder, hidden, tokens.roll(-1), 0.8, EntropyMode::kDifferentiable);
  return (scores.logprob * weights).sum() + (scores.entropy * weights).sum();
}

std::vector<at::Tensor> GradientsOf(Decoder& decoder, const Batch& batch) {
  decoder.SetRequiresGrad(true);
  LossOf(decoder, batch).backward();
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : decoder.trainable_parameters()) {
    EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
    EXPECT_EQ(parameter.tensor.grad().scalar_type(), at::kFloat);
    gradients.push_back(parameter.tensor.grad().clone());
  }
  decoder.ZeroGrad();
  return gradients;
}

// The linear layers of attention, and of the MLP where that is no mixture.
LoraConfig EverythingOf(const ModelConfig& config) {
  if (ResolveLora(Lora(), config).ok()) return Lora();
  return Lora({"q_proj", "k_proj", "v_proj", "o_proj"});
}

class FamilyTest : public ::testing::TestWithParam<size_t> {
 protected:
  ModelConfig Config() const {
    PhiloxStream random(17, GetParam());
    const auto json = RandomConfigJson(Families()[GetParam()]->model_type, random);
    ModelConfig config = *ModelConfig::FromJson(json.dump(), "config.json");
    config.SetContext(64);
    return config;
  }
};

TEST_P(FamilyTest, GradientsAgreeWithLibTorch) {
  const ModelConfig config = Config();
  const Batch batch({1, 23, 40}, config.vocab_size, 5);
  Decoder kernels = RandomDecoder(config, at::kFloat, 7);
  Decoder reference = RandomDecoder(config, at::kFloat, 7, Backend::kAten);
  for (Decoder* decoder : {&kernels, &reference}) AddRandomAdapter(*decoder, EverythingOf(config));
  const std::vector<at::Tensor> a = GradientsOf(kernels, batch), b = GradientsOf(reference, batch);
  ASSERT_EQ(a.size(), b.size());
  double largest = 0;
  for (const at::Tensor& gradient : b) {
    largest = std::max(largest, gradient.abs().max().item<double>());
  }
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_LT(MaxDifference(a[i], b[i]), 2e-5 * largest) << kernels.trainable_parameters()[i].name;
  }
  for (const auto& parameter : kernels.parameters()) {
    if (parameter.name.rfind("score.", 0) == 0) continue;
    EXPECT_FALSE(parameter.tensor.requires_grad()) << parameter.name;
    EXPECT_FALSE(parameter.tensor.grad().defined()) << parameter.name;
  }
}

TEST_P(FamilyTest, PagedStepsEqualThePackedForward) {
  const ModelConfig config = Config();
  const Batch batch({1, 23, 40}, config.vocab_size, 6);
  PhiloxStream random(5, 6);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    Decoder decoder = RandomDecoder(config, dtype, 8);
    const at::Tensor base = RunPacked(decoder, batch).outputs;
    AddRandomAdapter(decoder, EverythingOf(config));
    const at::Tensor packed = RunPacked(decoder, batch).outputs;
    EXPECT_GT(MaxDifference(packed, base), 1e-3);
    const auto chunks = [&](int64_t remaining) {
      return remaining > 10 ? static_cast<int64_t>(random.Below(20)) : 1;
    };
    EXPECT_TRUE(SameBits(RunPaged(decoder, batch, 16, chunks, random), packed));
    decoder.RemoveAdapter();
    EXPECT_TRUE(SameBits(RunPaged(decoder, batch, 16, chunks, random), base));
  }
}

std::string FamilyName(const ::testing::TestParamInfo<size_t>& param) {
  return Families()[param.param]->model_type;
}
INSTANTIATE_TEST_SUITE_P(All, FamilyTest, ::testing::Range<size_t>(0, Families().size()),
                         FamilyName);

TEST(AdapterTest, GradientsAreThoseOfFiniteDifferences) {
  Decoder decoder = RandomDecoder(SmallConfig(), at::kFloat, 9);
  AddRandomAdapter(decoder, Lora());
  const Batch batch({5, 12}, 77, 2);
  const std::vector<at::Tensor> gradients = GradientsOf(decoder, batch);
  PhiloxStream random(8, 8);
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < gradients.size(); ++i) {
    // Along the gradient's sign in every element: a derivative far above float32's noise.
    const auto& [name, parameter] = decoder.trainable_parameters()[i];
    const at::Tensor direction = gradients[i].sign();
    const double step = 2e-3 / std::sqrt(static_cast<double>(parameter.numel()));
    const at::Tensor before = parameter.clone();
    parameter.copy_(before + direction * step);
    const double above = LossOf(decoder, batch).item<double>();
    parameter.copy_(before - direction * step);
    const double below = LossOf(decoder, batch).item<double>();
    parameter.copy_(before);
    const double expected = (gradients[i] * direction).sum().item<double>();
    EXPECT_NEAR((above - below) / (2 * step), expected, 0.02 * expected + 0.05) << name;
  }
}

TEST(AdapterTest, ActivationCheckpointingChangesNoBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    Decoder decoder = RandomDecoder(SmallConfig(), dtype, 9);
    AddRandomAdapter(decoder, Lora({"q_proj", "down_proj"}));
    const Batch batch({5, 40}, 77, 2);
    const std::vector<at::Tensor> kept = GradientsOf(decoder, batch);
    decoder.SetActivationCheckpointing(true);
    const std::vector<at::Tensor> again = GradientsOf(decoder, batch);
    for (size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(SameBits(kept[i], again[i])) << i;
  }
}

TEST(AdapterTest, StartsAsTheModelItAdapts) {
  Decoder decoder = RandomDecoder(SmallConfig(), at::kBFloat16, 9);
  const Batch batch({5, 40}, 77, 2);
  const at::Tensor before = RunPacked(decoder, batch).outputs;
  ASSERT_TRUE(decoder.AddAdapter(Lora({}, 4)).ok());
  decoder.InitializeAdapter(11);
  EXPECT_EQ(MaxDifference(RunPacked(decoder, batch).outputs, before), 0.0);
  // 14 tensors of each layer, A with the spread of a uniform in ±1 / sqrt(k).
  ASSERT_EQ(decoder.adapter_parameters().size(), 28u);
  const auto& [name, a] = decoder.adapter_parameters()[12];
  EXPECT_EQ(name, "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
  EXPECT_EQ(a.sizes(), at::IntArrayRef({4, 104}));
  const double bound = 1 / std::sqrt(104.0);
  EXPECT_LE(a.abs().max().item<double>(), bound);
  EXPECT_GT(a.abs().max().item<double>(), 0.97 * bound);
  EXPECT_NEAR(a.std().item<double>(), bound / std::sqrt(3.0), 0.05 * bound);
  EXPECT_EQ(decoder.adapter_parameters()[13].tensor.abs().max().item<double>(), 0.0);

  Decoder other = RandomDecoder(SmallConfig(), at::kFloat, 10);
  ASSERT_TRUE(other.AddAdapter(Lora({}, 4)).ok());
  other.InitializeAdapter(11);
  EXPECT_TRUE(SameBits(other.adapter_parameters()[12].tensor, a)) << "the seed decides";
  other.InitializeAdapter(12);
  EXPECT_GT(MaxDifference(other.adapter_parameters()[12].tensor, a), 0.01);
}

TEST(AdapterTest, MergedWeightsComputeTheSame) {
  Decoder decoder = RandomDecoder(SmallConfig(), at::kFloat, 9);
  AddRandomAdapter(decoder, Lora({"v_proj", "gate_proj", "o_proj"}));
  const Batch batch({5, 40}, 77, 2);
  Decoder merged = RandomDecoder(SmallConfig(), at::kFloat, 1);
  const std::vector<tensor::NamedTensor> weights = decoder.MergedParameters();
  {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_EQ(weights[i].name, merged.parameters()[i].name);
      merged.parameters()[i].tensor.copy_(weights[i].tensor);
    }
  }
  const at::Tensor adapted = RunPacked(decoder, batch).outputs;
  EXPECT_LT(RelativeDifference(RunPacked(merged, batch).outputs, adapted), 1e-5);
  decoder.RemoveAdapter();
  EXPECT_GT(RelativeDifference(RunPacked(decoder, batch).outputs, adapted), 1e-2)
      << "merging leaves the base as it is";
}

TEST(AdapterTest, PackedCopiesFollowTheAdapter) {
  Decoder decoder = RandomDecoder(SmallConfig(), at::kFloat, 9);
  AddRandomAdapter(decoder, Lora());
  const Batch batch({5, 40}, 77, 2);
  PhiloxStream random(1, 1);
  const auto whole = [](int64_t remaining) { return remaining; };
  const at::Tensor before = RunPaged(decoder, batch, 16, whole, random);
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : decoder.adapter_parameters()) tensor.mul_(2.0);
  EXPECT_GT(MaxDifference(RunPaged(decoder, batch, 16, whole, random), before), 1e-2);
  for (const auto& [name, tensor] : decoder.adapter_parameters()) tensor.mul_(0.5);
  EXPECT_TRUE(SameBits(RunPaged(decoder, batch, 16, whole, random), before));
}

TEST(AdapterTest, AScoreIsTrainedWholeBesideTheMatrices) {
  ModelConfig config = SmallConfig();
  config.head = Head::kSequenceScore;
  Decoder decoder = RandomDecoder(config, at::kBFloat16, 9);
  AddRandomAdapter(decoder, Lora({"q_proj"}));
  const std::vector<at::Tensor> gradients = GradientsOf(decoder, Batch({5, 40}, 77, 2));
  ASSERT_EQ(gradients.size(), 5u);
  EXPECT_EQ(decoder.trainable_parameters()[4].name, "base_model.model.score.weight");
  EXPECT_GT(gradients[4].abs().max().item<double>(), 0.0);
}

TEST(LoraConfigTest, ScaleIsAlphaOverRankOrItsRoot) {
  LoraConfig lora{.r = 16, .alpha = 8, .rslora = false, .target_modules = {}, .base_model = ""};
  EXPECT_EQ(lora.Scale(), 0.5);
  lora.rslora = true;
  EXPECT_EQ(lora.Scale(), 2.0);
}

TEST(LoraConfigTest, TargetsAreResolved) {
  const ModelConfig config = SmallConfig();
  EXPECT_THAT(
      ResolveLora(Lora(), config)->target_modules,
      ElementsAre("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"));
  const LoraConfig two =
      *ResolveLora(Lora({"v_proj", "layers.1.mlp.up_proj", "v_proj"}, 2), config);
  EXPECT_THAT(two.target_modules, ElementsAre("layers.1.mlp.up_proj", "v_proj"));
  std::vector<std::string> names;
  for (const AdapterParameter& parameter : AdapterParametersOf(config, two)) {
    names.push_back(parameter.name);
  }
  EXPECT_THAT(names, ElementsAre("base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight",
                                 "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
                                 "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight",
                                 "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight",
                                 "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight",
                                 "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"));
}

TEST(LoraConfigTest, WhatCannotBeAdaptedIsRefusedByName) {
  const ModelConfig config = SmallConfig();
  const auto refusal = [&](const LoraConfig& lora) { return ResolveLora(lora, config).status(); };
  EXPECT_THAT(refusal(Lora({}, 0)).message(), HasSubstr("r: expected at least 1, got 0"));
  EXPECT_TRUE(refusal(Lora({"q_proj"}, 72)).ok());
  EXPECT_THAT(refusal(Lora({"q_proj"}, 73)).message(), HasSubstr("r: expected at most 72"));
  LoraConfig flat = Lora();
  flat.alpha = 0;
  EXPECT_THAT(refusal(flat).message(), HasSubstr("alpha: expected a number above 0"));
  EXPECT_TRUE(absl::IsInvalidArgument(refusal(Lora({"qproj"}))));
  EXPECT_THAT(refusal(Lora({"proj"})).message(),
              HasSubstr("\"proj\" names no matrix of this model; it has down_proj"));
  EXPECT_TRUE(absl::IsInvalidArgument(refusal(Lora({""}))));
  EXPECT_TRUE(absl::IsUnimplemented(refusal(Lora({"lm_head"}))));
  EXPECT_THAT(refusal(Lora({"embed_tokens"})).message(),
              HasSubstr("model.embed_tokens, no linear layer of attention or MLP"));

  PhiloxStream random(1, 1);
  const ModelConfig mixture =
      *ModelConfig::FromJson(RandomConfigJson("mixtral", random).dump(), "config.json");
  EXPECT_THAT(ResolveLora(Lora(), mixture).status().message(),
              HasSubstr("experts of a mixture, of which there are no adapters"));
  EXPECT_THAT(ResolveLora(Lora({"w1"}), mixture).status().message(),
              HasSubstr("an expert of a mixture"));
  EXPECT_TRUE(ResolveLora(Lora({"q_proj", "o_proj"}), mixture).ok());
}

}  // namespace
}  // namespace rollcall::model
