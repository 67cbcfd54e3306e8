#pragma once

// The register tiles of a product whose elements are chains over the depth, one step at a time.
// Included only by the kernels_*.cc files.

#include "common/model/kernels/simd.h"

namespace rollcall::model::kernels {
namespace {

// Rows of a register tile: kTileRows x kTileVectors accumulators, the vectors of b and one
// broadcast fit the register file (32 registers with AVX-512, else 16).
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 2;

template <int kRows, int kVectors, typename B>
ROLLCALL_INLINE void Tile(int64_t depth, const float* a, int64_t a_row, int64_t a_depth, const B* b,
                          int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  Vec acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      acc[i][j] = accumulate ? Load(c + i * c_stride + j * kWidth) : Vec{};
    }
  }
  for (int64_t p = 0; p < depth; ++p) {
    Vec row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) row[j] = Load(b + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vec x = Splat(a[i * a_row]);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) acc[i][j] = Fma(x, row[j], acc[i][j]);
    }
    a += a_depth;
    b += b_stride;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) Store(c + i * c_stride + j * kWidth, acc[i][j]);
  }
}

template <int kVectors, typename B>
void TileColumn(int64_t m, int64_t depth, const float* a, int64_t a_row, int64_t a_depth,
                const B* b, int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    Tile<kTileRows, kVectors>(depth, a + i * a_row, a_row, a_depth, b, b_stride, c + i * c_stride,
                              c_stride, accumulate);
  }
  a += i * a_row;
  c += i * c_stride;
#define ROLLCALL_TAIL(rows) \
  case rows:                \
    return Tile<rows, kVectors>(depth, a, a_row, a_depth, b, b_stride, c, c_stride, accumulate)
  switch (m - i) {
    ROLLCALL_TAIL(1);
    ROLLCALL_TAIL(2);
    ROLLCALL_TAIL(3);
#if defined(__AVX2__)
    ROLLCALL_TAIL(4);
    ROLLCALL_TAIL(5);
#endif
#if defined(__AVX512F__)
    ROLLCALL_TAIL(6);
    ROLLCALL_TAIL(7);
#endif
    default:
      return;
  }
#undef ROLLCALL_TAIL
}

// c: [m, n] (+)= a: [m, depth] * b: [depth, n], n a multiple of kLanes, all but b float32.
template <typename B>
void BlockGemm(int64_t m, int64_t n, int64_t depth, const float* a, int64_t a_row, int64_t a_depth,
               const B* b, int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  int64_t j = 0;
  for (; j + kTileVectors * kWidth <= n; j += kTileVectors * kWidth) {
    TileColumn<kTileVectors>(m, depth, a, a_row, a_depth, b + j, b_stride, c + j, c_stride,
                             accumulate);
  }
  for (; j < n; j += kWidth) {
    TileColumn<1>(m, depth, a, a_row, a_depth, b + j, b_stride, c + j, c_stride, accumulate);
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
