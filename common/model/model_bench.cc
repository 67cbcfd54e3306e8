// Speed of the kernels and of the whole decoder: GFLOP/s of one core, tokens/s of a training step
// and of decoding.
//   model_bench --benchmark_filter=Gemm

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "common/model/decoder.h"
#include "common/model/kernels/kernels.h"
#include "common/model/scoring.h"
#include "common/model/test_models.h"

namespace rollcall::model {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<void, Free>;

Buffer Zeros(int64_t bytes) {
  const int64_t rounded = kernels::RoundUp(bytes, 64);
  Buffer buffer(std::aligned_alloc(64, rounded));
  if (buffer == nullptr) throw std::bad_alloc();
  std::fill_n(static_cast<char*>(buffer.get()), rounded, 0);
  return buffer;
}

// Arguments: m, n = k, bfloat16. One thread.
void BM_Gemm(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = n, size = state.range(2) != 0 ? 2 : 4;
  const auto type = size == 2 ? kernels::Element::kBFloat16 : kernels::Element::kFloat32;
  const int64_t panels = kernels::PanelCount(n);
  const Buffer x = Zeros(m * k * size), y = Zeros(m * n * size);
  const Buffer w = Zeros(panels * kernels::kPanelWidth * k * size);
  const Buffer scratch = Zeros(kernels::kGemmScratchFloats * 4);
  const kernels::GemmArgs args{m,       n,    k, x.get(), type, k, 1,
                               w.get(), type, 0, y.get(), type, n, false};
  for (auto _ : state) {
    for (int64_t p = 0; p < panels; p += kernels::kPanelGroup) {
      kernels::Kernels().gemm(args, {0, m, p, std::min(panels, p + kernels::kPanelGroup)},
                              static_cast<float*>(scratch.get()));
    }
  }
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(m * n * k),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_Gemm)
    ->ArgsProduct({{1, 4, 16, 128}, {2048}, {0, 1}})
    ->Args({128, 128, 0})
    ->Unit(benchmark::kMicrosecond);

// The demo's model and the shape of stories260k.
ModelConfig BenchConfig(bool stories) {
  ModelConfig config;
  config.vocab_size = stories ? 512 : 16;
  config.hidden_size = stories ? 64 : 128;
  config.intermediate_size = stories ? 172 : 256;
  config.num_layers = stories ? 5 : 2;
  config.num_heads = stories ? 8 : 4;
  config.num_kv_heads = 4;
  config.head_dim = config.hidden_size / config.num_heads;
  config.tie_word_embeddings = stories;
  return config;
}

// Arguments: stories260k's shape, threads, bfloat16. Forward and backward of 128 sequences of 32
// tokens (stories: 32 of 128), log-probs and entropy of every token.
void BM_TrainingStep(benchmark::State& state) {
  const bool stories = state.range(0) != 0;
  const testing::ThreadCount threads(static_cast<int>(state.range(1)));
  const auto dtype = state.range(2) != 0 ? at::kBFloat16 : at::kFloat;
  const ModelConfig config = BenchConfig(stories);
  Decoder decoder = testing::RandomDecoder(config, dtype, 1);
  decoder.SetRequiresGrad(true);
  const int64_t length = stories ? 128 : 32, count = 4096 / length;
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t i = 0; i < count; ++i) cu_seqlens.push_back(cu_seqlens.back() + length);
  PackedAttention attention = *PackedAttention::Create(cu_seqlens);
  PhiloxStream random(1, 1);
  const at::Tensor tokens = testing::RandomTokens(4096, config.vocab_size, random);
  const at::Tensor positions = attention.Positions();
  for (auto _ : state) {
    const at::Tensor hidden = decoder.Forward(tokens, positions, attention);
    ScoreTokens(decoder, hidden, tokens, 1.0, EntropyMode::kDetached)->logprob.sum().backward();
    decoder.ZeroGrad();
  }
  state.counters["tokens/s"] =
      benchmark::Counter(4096, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_TrainingStep)
    ->ArgsProduct({{0, 1}, {1, 2}, {0, 1}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// Arguments: stories260k's shape, sequences decoded together, threads. One token a step after 16
// tokens of context.
void BM_Decode(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const ModelConfig config = BenchConfig(state.range(0) != 0);
  const int64_t count = state.range(1);
  const testing::ThreadCount threads(static_cast<int>(state.range(2)));
  Decoder decoder = testing::RandomDecoder(config, at::kFloat, 1);
  KvCache cache = *KvCache::Create(config, {2 * count, 16}, at::kFloat, at::Device(at::kCPU));
  std::vector<PagedSequence> sequences(count);
  for (int64_t i = 0; i < count; ++i) {
    sequences[i] = {{static_cast<int32_t>(2 * i), static_cast<int32_t>(2 * i + 1)}, 16, 1};
  }
  PhiloxStream random(1, 1);
  const at::Tensor tokens = testing::RandomTokens(count, config.vocab_size, random);
  for (auto _ : state) {
    PagedAttention attention = *PagedAttention::Create(&cache, sequences);
    benchmark::DoNotOptimize(
        decoder.Logits(decoder.Forward(tokens, attention.Positions(), attention)));
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(count), benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(BM_Decode)
    ->ArgsProduct({{0, 1}, {1, 16, 256}, {1, 2}})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace rollcall::model
