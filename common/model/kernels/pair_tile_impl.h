#pragma once

// The register tiles of a product with a bfloat16 b, whose elements are pair chains (arguments.h).
// Included only by the kernels_*.cc files.

#include "common/model/kernels/simd.h"

namespace rollcall::model::kernels {
namespace {

// Subnormal numbers count as zero while one of these lives, as they always do for vdpbf16ps.
class FlushSubnormals {
 public:
#if defined(__AVX2__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlushToZero | kInputsAreZero); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  static constexpr uint32_t kFlushToZero = 0x8000, kInputsAreZero = 0x40;
  const uint32_t saved_;
#else
  FlushSubnormals() {}
#endif

 public:
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;
};

// Rows of a tile of kPairVectors vectors: with the accumulators, two vectors of b (their odd and
// even halves where those are apart) and one broadcast, it fits the register file (32 with
// AVX-512, else 16).
#if defined(__AVX512F__)
constexpr int kPairRows = 12;
#else
constexpr int kPairRows = 4;
#endif
constexpr int kPairVectors = 2;

// Rows of a as float32; element (i, p) at data[i * row_stride + p * depth_stride].
struct FloatRows {
  const float* data;
  int64_t row_stride, depth_stride;

  FloatRows From(int64_t row) const { return {data + row * row_stride, row_stride, depth_stride}; }
};

// A vector of b: [pairs][kPanelWidth][2] as the halves of its pairs, widened.
struct PairVectors {
  Vec even, odd;
};

ROLLCALL_INLINE VecU LoadPairBits(const uint16_t* b) {
  using Unaligned = uint32_t __attribute__((vector_size(kWidth * 4), aligned(2), may_alias));
  return *reinterpret_cast<const Unaligned*>(b);
}
ROLLCALL_INLINE PairVectors LoadPairs(const uint16_t* b) {
  const VecU bits = LoadPairBits(b);
  return {(Vec)(bits << 16), (Vec)(bits & 0xffff0000u)};
}

// The two cache lines of one pair of depth steps, towards the second level cache.
ROLLCALL_INLINE void FetchPairs(const uint16_t* b) {
  __builtin_prefetch(b, 0, 2);
  __builtin_prefetch(b + kPanelWidth, 0, 2);
}

// One pair of depth steps; without the odd one where `kWhole` is false.
template <int kRows, bool kWhole>
ROLLCALL_INLINE void PairStep(const float* a, int64_t row_stride, int64_t depth_stride,
                              const uint16_t* b, Vec (&acc)[kRows][kPairVectors]) {
  PairVectors pairs[kPairVectors];
#pragma GCC unroll 2
  for (int j = 0; j < kPairVectors; ++j) pairs[j] = LoadPairs(b + j * 2 * kWidth);
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    const Vec odd = kWhole ? Splat(a[i * row_stride + depth_stride]) : Vec{};
    const Vec even = Splat(a[i * row_stride]);
#pragma GCC unroll 2
    for (int j = 0; j < kPairVectors; ++j) {
      acc[i][j] = Fma(even, pairs[j].even, Fma(odd, pairs[j].odd, acc[i][j]));
    }
  }
}

// What will be read of b later, brought near as b is read: one pair of depth steps for every `every`
// of them.
struct PairsAhead {
  const uint16_t* data;
  int64_t every;
};

template <int kRows>
ROLLCALL_INLINE void MultiplyPairs(int64_t depth, const FloatRows& a, const uint16_t* b,
                                   const PairsAhead& ahead, Vec (&acc)[kRows][kPairVectors]) {
  const float* at = a.data;
  const uint16_t* fetched = ahead.data;
  const int64_t pairs = depth / 2;
  for (int64_t p = 0; p < pairs; fetched += 2 * kPanelWidth) {
    FetchPairs(fetched);
    for (const int64_t end = Min(pairs, p + ahead.every); p < end; ++p) {
      PairStep<kRows, true>(at, a.row_stride, a.depth_stride, b, acc);
      at += 2 * a.depth_stride;
      b += 2 * kPanelWidth;
    }
  }
  if (depth % 2 != 0) PairStep<kRows, false>(at, a.row_stride, a.depth_stride, b, acc);
}

#if defined(__AVX512BF16__)
// Rows of a as pairs of bfloat16; pair p of row i, four bytes, at data + i * row_stride + p *
// pair_stride.
struct PairRows {
  const uint16_t* data;
  int64_t row_stride, pair_stride;

  PairRows From(int64_t row) const { return {data + row * row_stride, row_stride, pair_stride}; }
};

ROLLCALL_INLINE Vec DotPairs(VecU a, VecU b, Vec acc) {
  return (Vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}

template <int kRows>
ROLLCALL_INLINE void MultiplyPairs(int64_t depth, const PairRows& a, const uint16_t* b,
                                   const PairsAhead& ahead, Vec (&acc)[kRows][kPairVectors]) {
  const uint16_t* at = a.data;
  const uint16_t* fetched = ahead.data;
  const int64_t all_pairs = CeilDiv(depth, 2);
  for (int64_t p = 0; p < all_pairs; fetched += 2 * kPanelWidth) {
    FetchPairs(fetched);
    for (const int64_t end = Min(all_pairs, p + ahead.every); p < end; ++p) {
      VecU pairs[kPairVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kPairVectors; ++j) pairs[j] = LoadPairBits(b + j * 2 * kWidth);
#pragma GCC unroll 12
      for (int i = 0; i < kRows; ++i) {
        uint32_t bits;
        __builtin_memcpy(&bits, at + i * a.row_stride, 4);
        const VecU x = VecU{} + bits;
#pragma GCC unroll 2
        for (int j = 0; j < kPairVectors; ++j) acc[i][j] = DotPairs(x, pairs[j], acc[i][j]);
      }
      at += a.pair_stride;
      b += 2 * kPanelWidth;
    }
  }
}
#endif

// kRows rows of c: [rows][kPanelWidth], one panel of b.
template <int kRows, typename Rows>
void PairTile(int64_t depth, const Rows& a, const uint16_t* b, const PairsAhead& ahead, float* c,
              bool accumulate) {
  for (int64_t column = 0; column < kPanelWidth; column += kPairVectors * kWidth) {
    Vec acc[kRows][kPairVectors];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kPairVectors; ++j) {
        acc[i][j] = accumulate ? Load(c + i * kPanelWidth + column + j * kWidth) : Vec{};
      }
    }
    MultiplyPairs<kRows>(depth, a, b + 2 * column, ahead, acc);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kPairVectors; ++j) {
        Store(c + i * kPanelWidth + column + j * kWidth, acc[i][j]);
      }
    }
  }
}

template <int kRows, typename Rows>
ROLLCALL_INLINE void PairTileOf(int64_t rows, int64_t depth, const Rows& a, const uint16_t* b,
                                const PairsAhead& ahead, float* c, bool accumulate) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return PairTileOf<kRows - 1>(rows, depth, a, b, ahead, c, accumulate);
  }
  PairTile<kRows>(depth, a, b, ahead, c, accumulate);
}

// c: [rows][kPanelWidth] (+)= a times one panel, in tiles of about equal height. A single tile reads
// the panel from memory and fetches what it needs in 32 pairs, 4 KiB; each of several, which find
// the panel in a cache, fetches its share of `next`, the panel after it.
template <typename Rows>
void PairPanel(int64_t rows, int64_t depth, const Rows& a, const uint16_t* b, const uint16_t* next,
               float* c, bool accumulate) {
  constexpr int64_t kPair = 2 * kPanelWidth, kPairsAhead = 32;
  const int64_t tiles = CeilDiv(rows, kPairRows), share = CeilDiv(CeilDiv(depth, 2), tiles);
  PairsAhead ahead{tiles == 1 ? b + kPairsAhead * kPair : next, tiles};
  for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {
    const int64_t count = CeilDiv(rows - row, tiles - tile);
    PairTileOf<kPairRows>(count, depth, a.From(row), b, ahead, c + row * kPanelWidth, accumulate);
    row += count;
    ahead.data += share * kPair;
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
