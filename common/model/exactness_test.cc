// Log-probs of the generator's paths equal those of the learner's packed, differentiable forward
// bit for bit, over whole matrices: decode, chunked prefill, mixed batches, block sizes, thread
// counts, both dtypes.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/model/scoring.h"
#include "common/model/test_models.h"

namespace rollcall::model {
namespace {

using testing::RandomDecoder;
using testing::RandomTokens;
using testing::SameBits;
using testing::SmallConfig;
using testing::ThreadCount;

const std::vector<int64_t> kLengths = {1, 7, 16, 33, 50, 129};

struct Batch {
  std::vector<at::Tensor> sequences;
  std::vector<int64_t> cu_seqlens = {0};

  Batch(const std::vector<int64_t>& lengths, int64_t vocab, uint64_t seed) {
    PhiloxStream random(seed, 7);
    for (int64_t length : lengths) {
      sequences.push_back(RandomTokens(length, vocab, random));
      cu_seqlens.push_back(cu_seqlens.back() + length);
    }
  }
  at::Tensor Tokens() const { return at::cat(sequences); }
};

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

struct PackedResult {
  at::Tensor hidden, logits, logprob;
};

// As the learner runs it: gradients on, and the loss back-propagated.
PackedResult RunPacked(Decoder& decoder, const Batch& batch) {
  decoder.SetRequiresGrad(true);
  PackedAttention attention = *PackedAttention::Create(batch.cu_seqlens);
  const at::Tensor tokens = batch.Tokens();
  const at::Tensor hidden = decoder.Forward(tokens, attention.Positions(), attention);
  const TokenScores scores =
      *ScoreTokens(decoder, hidden, tokens.roll(-1), 0.7, EntropyMode::kDetached);
  scores.logprob.sum().backward();
  decoder.ZeroGrad();
  decoder.SetRequiresGrad(false);
  return {hidden.detach(), decoder.Logits(hidden), scores.logprob.detach()};
}

// Serves all sequences over one cache. `next_chunk(remaining)` says how many tokens of a sequence
// run in a step (0: it sits this one out); the order of sequences inside a step is shuffled.
template <typename NextChunk>
at::Tensor RunPaged(Decoder& decoder, const Batch& batch, int64_t block_size, NextChunk next_chunk,
                    PhiloxStream& random) {
  const at::NoGradGuard no_grad;
  KvCache cache =
      *KvCache::Create(decoder.config(), {64, block_size}, decoder.dtype(), decoder.device());
  for (int64_t layer = 0; layer < cache.num_layers(); ++layer) {
    // What a freed block may hold must not matter.
    cache.keys(layer).fill_(std::numeric_limits<double>::quiet_NaN());
    cache.values(layer).fill_(std::numeric_limits<double>::infinity());
  }
  std::vector<int32_t> free_blocks(64);
  std::iota(free_blocks.begin(), free_blocks.end(), 0);
  for (size_t i = free_blocks.size(); i > 1; --i) {
    std::swap(free_blocks[i - 1], free_blocks[random.Below(i)]);
  }
  const size_t count = batch.sequences.size();
  std::vector<PagedSequence> states(count);
  std::vector<std::vector<at::Tensor>> rows(count);
  for (;;) {
    std::vector<size_t> order(count), chosen;
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
    std::vector<PagedSequence> step;
    std::vector<at::Tensor> tokens;
    bool finished = true;
    for (size_t i : order) {
      PagedSequence& state = states[i];
      const int64_t remaining = batch.sequences[i].size(0) - state.start;
      if (remaining == 0) continue;
      finished = false;
      state.count = std::min<int64_t>(remaining, next_chunk(remaining));
      if (state.count == 0) continue;
      while (static_cast<int64_t>(state.block_table.size()) * block_size <
             state.start + state.count) {
        state.block_table.push_back(free_blocks.back());
        free_blocks.pop_back();
      }
      step.push_back(state);
      chosen.push_back(i);
      tokens.push_back(batch.sequences[i].narrow(0, state.start, state.count));
      state.start += state.count;
    }
    if (finished) break;
    if (step.empty()) continue;
    PagedAttention attention = *PagedAttention::Create(&cache, step);
    const at::Tensor hidden = decoder.Forward(at::cat(tokens), attention.Positions(), attention);
    const at::Tensor logits = decoder.Logits(hidden);
    int64_t row = 0;
    for (size_t j = 0; j < step.size(); ++j) {
      rows[chosen[j]].push_back(logits.narrow(0, row, step[j].count));
      row += step[j].count;
    }
  }
  std::vector<at::Tensor> all;
  for (auto& parts : rows) all.insert(all.end(), parts.begin(), parts.end());
  return at::cat(all);
}

struct Case {
  at::ScalarType dtype;
  int64_t heads, kv_heads, head_dim;
};

std::string CaseName(const ::testing::TestParamInfo<Case>& param) {
  const Case& c = param.param;
  return (c.dtype == at::kFloat ? "float32_" : "bfloat16_") + std::to_string(c.heads) + "heads_" +
         std::to_string(c.kv_heads) + "kv_" + std::to_string(c.head_dim) + "dim";
}

class ExactnessTest : public ::testing::TestWithParam<Case> {
 protected:
  Decoder MakeDecoder() const {
    const Case& c = GetParam();
    return RandomDecoder(SmallConfig(c.heads, c.kv_heads, c.head_dim), c.dtype, 11);
  }
};

TEST_P(ExactnessTest, PagedStepsEqualThePackedForward) {
  Decoder decoder = MakeDecoder();
  const Batch batch(kLengths, decoder.config().vocab_size, 3);
  const PackedResult packed = RunPacked(decoder, batch);
  const at::Tensor expected = LogProbMatrix(packed.logits, 0.7);
  PhiloxStream random(5, 5);
  for (int threads : {1, 2}) {
    const ThreadCount scope(threads);
    for (int64_t block_size : {16, 32, 48}) {
      SCOPED_TRACE(::testing::Message() << threads << " threads, block size " << block_size);
      const auto check = [&](const char* what, auto next_chunk) {
        const at::Tensor logits = RunPaged(decoder, batch, block_size, next_chunk, random);
        EXPECT_TRUE(SameBits(logits, packed.logits)) << what;
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
  const at::Tensor matrix = LogProbMatrix(packed.logits, 0.7);
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
      const at::Tensor rows = packed.logits.narrow(0, batch.cu_seqlens[i], alone.cu_seqlens[1]);
      EXPECT_TRUE(SameBits(RunPacked(decoder, alone).logits, rows)) << "sequence " << i;
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
    for (const auto& parameter : decoder.parameters()) {
      ASSERT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
      EXPECT_EQ(parameter.tensor.grad().scalar_type(), at::kFloat);
      list.push_back(parameter.tensor.grad().clone());
    }
    decoder.ZeroGrad();
  }
  for (size_t i = 0; i < gradients[0].size(); ++i) {
    EXPECT_TRUE(SameBits(gradients[0][i], gradients[1][i])) << decoder.parameters()[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExactnessTest,
                         ::testing::Values(Case{at::kFloat, 6, 2, 24},
                                           Case{at::kBFloat16, 6, 2, 24},
                                           Case{at::kFloat, 4, 4, 20},
                                           Case{at::kBFloat16, 4, 4, 20},
                                           Case{at::kFloat, 9, 1, 8}),
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
