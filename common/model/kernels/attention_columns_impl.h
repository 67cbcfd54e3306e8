#pragma once

// The two products of attention, scores and mixed values, of up to kColumnRows query rows at once
// over keys that lie in blocks: as many vectors at a time, of several blocks if need be, as keep
// the multiply-adds of independent chains busy and fit the registers. Included only by the
// kernels_*.cc files.

#include "common/model/kernels/simd.h"

namespace rollcall::model::kernels {
namespace {

// Keys and values of one KV head in blocks: keys of block b at keys + table[b] * key_stride
// ([head_dim][block_size]), values at values + table[b] * value_stride ([block_size][padded
// head_dim]). A null table is the identity.
template <typename T>
struct KeyValueBlocks {
  const T* keys;
  const T* values;
  const int32_t* table;
  int64_t key_stride, value_stride;
  int64_t block_size;

  int64_t Index(int64_t block) const { return table == nullptr ? block : table[block]; }
  const T* Keys(int64_t block) const { return keys + Index(block) * key_stride; }
  const T* Values(int64_t block) const { return values + Index(block) * value_stride; }
};

// Rows of one call: 8 rows x 2 vectors of accumulators, the vectors of keys and one broadcast fit
// 32 registers, 8 x 1 fit 16.
constexpr int kColumnRows = 8;

// Vectors at once beside kRows rows. A multiply-add takes 4 cycles and one or two begin in each: at
// least 8 chains.
#if defined(__AVX512F__)
constexpr int ScoreVectorsOf(int rows) { return rows <= 2 ? 8 : rows <= 4 ? 4 : 2; }
constexpr int ValueVectorsOf(int rows) { return rows <= 4 ? 4 : 2; }
#else
constexpr int ScoreVectorsOf(int rows) { return rows <= 2 ? 4 : rows <= 5 ? 2 : 1; }
constexpr int ValueVectorsOf(int rows) { return rows <= 2 ? 4 : rows <= 5 ? 2 : 1; }
#endif

// Keys whose values are read again for the next columns before those of later keys: 256 of a head
// of 128 in bfloat16 are 64 KiB.
constexpr int64_t kValueKeys = 256;

// Blocks of a cache lie anywhere: one that is needed soon, towards the first level cache.
template <typename T>
ROLLCALL_INLINE void FetchBlock(const T* data, int64_t elements) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < elements; i += kLine) __builtin_prefetch(data + i, 0, 3);
}
// How many blocks before its own one's values are fetched: 4 of 16 keys take about as long as memory.
constexpr int64_t kBlocksAhead = 4;

// Calls f.operator()<r>() with r = rows, 1 to kColumnRows.
template <int kRows = kColumnRows, typename F>
ROLLCALL_INLINE void WithRows(int64_t rows, const F& f) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return WithRows<kRows - 1>(rows, f);
  }
  f.template operator()<kRows>();
}

// scores[r][j] = q_r . k_j for keys j up to `end`, kVectors vectors of them at a time, then fewer.
// j and end are multiples of kLanes; q: [kRows, head_dim].
template <int kRows, int kVectors, typename T>
void ScoreColumns(const KeyValueBlocks<T>& kv, int64_t head_dim, const float* q, int64_t j,
                  int64_t end, float* scores, int64_t stride) {
  int64_t block = j / kv.block_size, within = j % kv.block_size;
  for (; j + kVectors * kWidth <= end; j += kVectors * kWidth) {
    const T* keys[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      keys[v] = kv.Keys(block) + within;
      within += kWidth;
      if (within == kv.block_size) {
        within = 0;
        ++block;
      }
    }
    Vec acc[kRows][kVectors] = {};
    for (int64_t p = 0; p < head_dim; ++p) {
      Vec row[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) row[v] = Load(keys[v] + p * kv.block_size);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const Vec x = Splat(q[i * head_dim + p]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[i][v] = Fma(x, row[v], acc[i][v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) Store(scores + i * stride + j + v * kWidth, acc[i][v]);
    }
  }
  if constexpr (kVectors > 1) {
    if (j < end) ScoreColumns<kRows, kVectors / 2>(kv, head_dim, q, j, end, scores, stride);
  }
}

// out[r][c] (+)= sum of weights[r][j] * v_j[c] over keys [from, to), upwards, for columns c up to
// `width`, kVectors vectors of them at a time, then fewer.
template <int kRows, int kVectors, typename T>
void ValueColumns(const KeyValueBlocks<T>& kv, int64_t from, int64_t to, const float* weights,
                  int64_t stride, int64_t c, int64_t width, bool accumulate, float* out) {
  for (; c + kVectors * kWidth <= width; c += kVectors * kWidth) {
    Vec acc[kRows][kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        acc[i][v] = accumulate ? Load(out + i * width + c + v * kWidth) : Vec{};
      }
    }
    for (int64_t j = from; j < to;) {
      const int64_t block = j / kv.block_size, within = j % kv.block_size;
      const int64_t end = Min(to, j - within + kv.block_size);
      const T* values = kv.Values(block) + within * width + c;
      const int64_t later = block + kBlocksAhead;
      if (c == 0 && later * kv.block_size < to) {
        FetchBlock(kv.Values(later), kv.block_size * width);
      }
      for (; j < end; ++j, values += width) {
        Vec row[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) row[v] = Load(values + v * kWidth);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          const Vec x = Splat(weights[i * stride + j]);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) acc[i][v] = Fma(x, row[v], acc[i][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) Store(out + i * width + c + v * kWidth, acc[i][v]);
    }
  }
  if constexpr (kVectors > 1) {
    if (c < width) {
      ValueColumns<kRows, kVectors / 2>(kv, from, to, weights, stride, c, width, accumulate, out);
    }
  }
}

// ScoreColumns of any number of rows.
template <typename T>
void AllScores(const KeyValueBlocks<T>& kv, int64_t rows, int64_t head_dim, const float* q,
               int64_t from, int64_t end, float* scores, int64_t stride) {
  for (int64_t r = 0; r < rows; r += kColumnRows) {
    WithRows(Min(rows - r, kColumnRows), [&]<int kRows>() {
      ScoreColumns<kRows, ScoreVectorsOf(kRows)>(kv, head_dim, q + r * head_dim, from, end,
                                                 scores + r * stride, stride);
    });
  }
}

// The first blocks of values that ValueColumns reads, while scores are computed.
template <typename T>
void FetchFirstValues(const KeyValueBlocks<T>& kv, int64_t from, int64_t to, int64_t padded_head) {
  const int64_t first = from / kv.block_size, end = CeilDiv(to, kv.block_size);
  for (int64_t block = first; block < Min(end, first + kBlocksAhead); ++block) {
    FetchBlock(kv.Values(block), kv.block_size * padded_head);
  }
}

// out (+)= sum of weights[j] * v_j over keys [from, to), for `rows` rows: [rows, padded_head].
template <typename T>
void AddValues(const KeyValueBlocks<T>& kv, int64_t from, int64_t to, int64_t rows,
               const float* weights, int64_t stride, int64_t padded_head, bool accumulate,
               float* out) {
  for (int64_t begin = from; begin < to; begin += kValueKeys) {
    const int64_t end = Min(to, begin + kValueKeys);
    for (int64_t r = 0; r < rows; r += kColumnRows) {
      WithRows(Min(rows - r, kColumnRows), [&]<int kRows>() {
        ValueColumns<kRows, ValueVectorsOf(kRows)>(kv, begin, end, weights + r * stride, stride, 0,
                                                   padded_head, accumulate || begin > from,
                                                   out + r * padded_head);
      });
    }
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
