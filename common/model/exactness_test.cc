// Log-probs of the generator's paths equal those of the learner's packed, differentiable forward
// bit for bit, over whole matrices: decode, chunked prefill, mixed batches, block sizes, thread
// counts, both dtypes.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/model/scoring.h"
#include "common/model/test_models.h"
#include "common/model/test_runs.h"

namespace rollcall::model {
namespace {

using testing::Batch;
using testing::PackedResult;
using testing::RandomDecoder;
using testing::RandomTokens;
using testing::RunPacked;
using testing::RunPaged;
using testing::SameBits;
using testing::SmallConfig;
using testing::ThreadCount;

const std::vector<int64_t> kLengths = {1, 7, 16, 33, 50, 129};

// Full log-prob matrix [tokens, vocab]: ScoreTokens' kernel for every token of the vocabulary.
at::Tensor LogProbMatrix(const at::Tensor& logits, double temperature) {
  at::Tensor matrix = logits.clone();
  for (int64_t i = 0; i < logits.size(0); ++i) {
    const float* row = logits.const_data_ptr<float>() + i * logits.size(1);
    for (int64_t t = 0; t < logits.size(1); ++t) {
      matrix.mutable_data_ptr<float>()[i * logits.size(1) + t] =
          TokenLogProb(row, logits.size(1), temperature, t);
    }
  }
  return matrix;
}

struct Case {
  at::ScalarType dtype;
  int64_t heads, kv_heads, head_dim;
  int64_t adapter_rank = 0;  // 0: none
};

std::string CaseName(const ::testing::TestParamInfo<Case>& param) {
  const Case& c = param.param;
  return (c.dtype == at::kFloat ? "float32_" : "bfloat16_") + std::to_string(c.heads) + "heads_" +
         std::to_string(c.kv_heads) + "kv_" + std::to_string(c.head_dim) + "dim" +
         (c.adapter_rank > 0 ? "_rank" + std::to_string(c.adapter_rank) : "");
}

class ExactnessTest : public ::testing::TestWithParam<Case> {
 protected:
  Decoder MakeDecoder() const {
    const Case& c = GetParam();
    Decoder decoder = RandomDecoder(SmallConfig(c.heads, c.kv_heads, c.head_dim), c.dtype, 11);
    if (c.adapter_rank == 0) return decoder;
    EXPECT_TRUE(decoder.AddAdapter({.r = c.adapter_rank, .alpha = 7}).ok());
    const at::NoGradGuard no_grad;
    PhiloxStream random(21, 21);
    for (const auto& [name, tensor] : decoder.adapter_parameters()) {
      tensor.copy_(testing::RandomNormal(tensor.sizes(), random).mul_(0.2));
    }
    return decoder;
  }
};

TEST_P(ExactnessTest, PagedStepsEqualThePackedForward) {
  Decoder decoder = MakeDecoder();
  const Batch batch(kLengths, decoder.config().vocab_size, 3);
  const PackedResult packed = RunPacked(decoder, batch);
  const at::Tensor expected = LogProbMatrix(packed.outputs, 0.7);
  PhiloxStream random(5, 5);
  for (int threads : {1, 2}) {
    const ThreadCount scope(threads);
    for (int64_t block_size : {16, 32, 48}) {
      SCOPED_TRACE(::testing::Message() << threads << " threads, block size " << block_size);
      const auto check = [&](const char* what, auto next_chunk) {
        const at::Tensor logits = RunPaged(decoder, batch, block_size, next_chunk, random);
        EXPECT_TRUE(SameBits(logits, packed.outputs)) << what;
        EXPECT_TRUE(SameBits(LogProbMatrix(logits, 0.7), expected)) << what;
      };
      check("token by token", [](int64_t) { return 1; });
      check("whole prompts", [](int64_t remaining) { return remaining; });
      check("random chunks", [&](int64_t) { return static_cast<int64_t>(random.Below(24)); });
      check("decode beside prefill",
            [&](int64_t remaining) { return random.Below(2) == 0 ? 1 : remaining; });
    }
  }
}

TEST_P(ExactnessTest, ScoreTokensEqualsTokenLogProb) {
  Decoder decoder = MakeDecoder();
  const Batch batch(kLengths, decoder.config().vocab_size, 4);
  const PackedResult packed = RunPacked(decoder, batch);
  const at::Tensor matrix = LogProbMatrix(packed.outputs, 0.7);
  const at::Tensor targets = batch.Tokens().roll(-1);
  const at::Tensor expected = matrix.gather(1, targets.unsqueeze(1)).squeeze(1);
  EXPECT_TRUE(SameBits(packed.logprob, expected));
}

TEST_P(ExactnessTest, PackingAndThreadsChangeNoBit) {
  Decoder decoder = MakeDecoder();
  const Batch batch(kLengths, decoder.config().vocab_size, 6);
  const PackedResult packed = RunPacked(decoder, batch);
  for (int threads : {1, 2}) {
    const ThreadCount scope(threads);
    EXPECT_TRUE(SameBits(RunPacked(decoder, batch).hidden, packed.hidden));
    for (size_t i = 0; i < batch.sequences.size(); ++i) {
      Batch alone({}, 1, 0);
      alone.sequences = {batch.sequences[i]};
      alone.cu_seqlens = {0, batch.sequences[i].size(0)};
      const at::Tensor rows = packed.outputs.narrow(0, batch.cu_seqlens[i], alone.cu_seqlens[1]);
      EXPECT_TRUE(SameBits(RunPacked(decoder, alone).outputs, rows)) << "sequence " << i;
    }
  }
}

TEST_P(ExactnessTest, GradientsDoNotDependOnThreads) {
  Decoder decoder = MakeDecoder();
  const Batch batch(kLengths, decoder.config().vocab_size, 8);
  std::vector<std::vector<at::Tensor>> gradients;
  for (int threads : {1, 2}) {
    const ThreadCount scope(threads);
    decoder.SetRequiresGrad(true);
    PackedAttention attention = *PackedAttention::Create(batch.cu_seqlens);
    const at::Tensor tokens = batch.Tokens();
    const at::Tensor hidden = decoder.Forward(tokens, attention.Positions(), attention);
    const TokenScores scores =
        *ScoreTokens(decoder, hidden, tokens.roll(-1), 1.0, EntropyMode::kDifferentiable);
    (scores.logprob.sum() + scores.entropy.sum()).backward();
    auto& list = gradients.emplace_back();
    for (const auto& parameter : decoder.trainable_parameters()) {
      ASSERT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
      EXPECT_EQ(parameter.tensor.grad().scalar_type(), at::kFloat);
      list.push_back(parameter.tensor.grad().clone());
    }
    decoder.ZeroGrad();
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_TRUE(SameBits(gradients[0][i], gradients[1][i]))
        << decoder.trainable_parameters()[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExactnessTest,
                         ::testing::Values(Case{at::kFloat, 6, 2, 24},
                                           Case{at::kBFloat16, 6, 2, 24},
                                           Case{at::kFloat, 4, 4, 20},
                                           Case{at::kBFloat16, 4, 4, 20}, Case{at::kFloat, 9, 1, 8},
                                           Case{at::kFloat, 6, 2, 24, 4},
                                           Case{at::kBFloat16, 6, 2, 24, 5}),
                         CaseName);

TEST(CopyBlockTest, ForkedSequenceContinuesExactly) {
  Decoder decoder = RandomDecoder(SmallConfig(), at::kFloat, 12);
  const at::NoGradGuard no_grad;
  PhiloxStream random(9, 9);
  const at::Tensor prompt = RandomTokens(21, 77, random);
  KvCache cache = *KvCache::Create(decoder.config(), {4, 16}, at::kFloat, at::Device(at::kCPU));
  PagedAttention prefill = *PagedAttention::Create(&cache, {{{2, 0}, 0, 21}});
  decoder.Forward(prompt, prefill.Positions(), prefill);
  cache.CopyBlock(0, 3);
  PagedAttention fork = *PagedAttention::Create(&cache, {{{2, 0}, 21, 1}, {{2, 3}, 21, 1}});
  const at::Tensor next = RandomTokens(2, 77, random);
  const at::Tensor forked = decoder.Logits(decoder.Forward(next, fork.Positions(), fork));
  for (int64_t i = 0; i < 2; ++i) {
    PackedAttention packed = *PackedAttention::Create({0, 22});
    const at::Tensor whole = at::cat({prompt, next.narrow(0, i, 1)});
    const at::Tensor logits = decoder.Logits(decoder.Forward(whole, packed.Positions(), packed));
    EXPECT_TRUE(SameBits(forked.narrow(0, i, 1), logits.narrow(0, 21, 1)));
  }
}

}  // namespace
}  // namespace rollcall::model
