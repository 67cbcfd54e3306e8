#include "tests/bench/engine/rooflines.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rollcall::bench {
namespace {

constexpr int64_t kBytes = int64_t{512} << 20;
constexpr int64_t kSteps = 4'000'000;  // about 30 ms of register loops
// Independent sums: more than latency (4 to 6 cycles) times throughput (at most 2 a cycle).
constexpr int kSums = 20;

volatile float g_sink;
volatile float g_first = 1.0f;

// Unknown to the compiler and different for each sum: equal sums would be computed once.
float FirstOf(int sum) { return g_first + static_cast<float>(sum); }

#if defined(__x86_64__)

__attribute__((target("avx512f"))) double FmaWide() {
  __m512 sums[kSums], factor = _mm512_set1_ps(0.5f);
  for (int j = 0; j < kSums; ++j) sums[j] = _mm512_set1_ps(FirstOf(j));
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 20
    for (int j = 0; j < kSums; ++j) sums[j] = _mm512_fmadd_ps(sums[j], factor, factor);
  }
  __m512 total = {};
  for (const __m512& sum : sums) total = _mm512_add_ps(total, sum);
  g_sink = total[0];
  return 2.0 * 16 * kSums * kSteps;
}

__attribute__((target("avx512f,avx512bf16"))) double DotWide() {
  __m512 sums[kSums];
  for (int j = 0; j < kSums; ++j) sums[j] = _mm512_set1_ps(FirstOf(j));
  const auto ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 20
    for (int j = 0; j < kSums; ++j) sums[j] = _mm512_dpbf16_ps(sums[j], ones, ones);
  }
  __m512 total = {};
  for (const __m512& sum : sums) total = _mm512_add_ps(total, sum);
  g_sink = total[0];
  return 4.0 * 16 * kSums * kSteps;
}

__attribute__((target("avx2,fma"))) double FmaNarrow() {
  __m256 sums[12], factor = _mm256_set1_ps(0.5f);
  for (int j = 0; j < 12; ++j) sums[j] = _mm256_set1_ps(FirstOf(j));
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) sums[j] = _mm256_fmadd_ps(sums[j], factor, factor);
  }
  __m256 total = {};
  for (const __m256& sum : sums) total = _mm256_add_ps(total, sum);
  g_sink = total[0];
  return 2.0 * 8 * 12 * kSteps;
}
#endif

double FmaScalar() {
  using Vec = float __attribute__((vector_size(16)));
  Vec sums[8];
  for (int j = 0; j < 8; ++j) sums[j] = Vec{} + FirstOf(j);
  const Vec factor = Vec{} + 0.5f;
  for (int64_t i = 0; i < kSteps; ++i) {
    for (auto& sum : sums) sum = sum * factor + factor;
  }
  Vec total = {};
  for (const Vec& sum : sums) total += sum;
  g_sink = total[0];
  return 2.0 * 4 * 8 * kSteps;
}

double Fma() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return FmaWide();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return FmaNarrow();
#endif
  return FmaScalar();
}

double Dot() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return DotWide();
#endif
  return Fma();
}

// Four running sums of a cache line each: nothing but loads matters.
double Read(const char* data, int64_t bytes) {
  using Line = uint64_t __attribute__((vector_size(64)));
  const auto* lines = reinterpret_cast<const Line*>(data);
  Line sums[4] = {};
  const int64_t count = bytes / 64;
  for (int64_t i = 0; i + 4 <= count; i += 4) {
    for (int64_t j = 0; j < 4; ++j) sums[j] += lines[i + j];
  }
  const Line total = sums[0] + sums[1] + sums[2] + sums[3];
  g_sink = static_cast<float>(total[0] + total[7]);
  return static_cast<double>(bytes);
}

// Amount a second of all threads together: the best of five rounds, which is the roof.
double BestRate(int threads, const std::function<double(int thread)>& work) {
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    std::vector<double> amounts(threads);
    std::barrier start(threads + 1);
    std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) {
      pool.emplace_back([&, t] {
        start.arrive_and_wait();
        amounts[t] = work(t);
      });
    }
    start.arrive_and_wait();
    const auto begin = std::chrono::steady_clock::now();
    double amount = 0;
    for (int t = 0; t < threads; ++t) {
      pool[t].join();
      amount += amounts[t];
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, amount / seconds.count());
  }
  return best;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

}  // namespace

Rooflines MeasureRooflines(int threads) {
  const std::unique_ptr<char, Free> memory(static_cast<char*>(std::aligned_alloc(4096, kBytes)));
  std::fill_n(memory.get(), kBytes, '\1');
  const int64_t part = kBytes / threads / 4096 * 4096;
  Rooflines roofs{};
  roofs.stream_read_gb_per_s =
      1e-9 * BestRate(threads, [&](int t) { return Read(memory.get() + t * part, part); });
  roofs.fma_gflop_per_s = 1e-9 * BestRate(threads, [](int) { return Fma(); });
  roofs.bf16_dot_gflop_per_s = 1e-9 * BestRate(threads, [](int) { return Dot(); });
  return roofs;
}

}  // namespace rollcall::bench
