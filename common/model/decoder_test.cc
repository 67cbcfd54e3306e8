#include "common/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

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

Outcome RunOnce(Decoder& decoder, const at::Tensor& tokens, const std::vector<int64_t>& cu_seqlens) {
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

}  // namespace
}  // namespace rollcall::model
