#pragma once

// Attention of a tile of query rows over transposed key blocks, shared by the packed and the paged
// entry point and by the backward. Included only by the kernels_*.cc files.

#include "common/model/kernels/attention_columns_impl.h"
#include "common/model/kernels/chain_tile_impl.h"
#include "common/model/kernels/rows_impl.h"

namespace rollcall::model::kernels {
namespace {

// Query rows of one KV head: `tokens` consecutive positions from `position`, each with the `group`
// heads that share the KV head; row = token * group + head. A row sees keys [First(row), End(row)).
struct QueryTile {
  int64_t position, tokens, group;
  int64_t window;  // 0: none

  int64_t Rows() const { return tokens * group; }
  int64_t End(int64_t row) const { return position + row / group + 1; }
  int64_t First(int64_t row) const {
    const int64_t hidden = window == 0 ? 0 : End(row) - window;
    return hidden > 0 ? hidden : 0;
  }
  // Keys [SharedBegin(), SharedEnd()) are seen by all rows, [Begin(), MostKeys()) by some row.
  int64_t SharedBegin() const { return Min(First(Rows() - 1), SharedEnd()); }
  int64_t SharedEnd() const { return position + 1; }
  int64_t Begin() const { return First(0); }
  int64_t MostKeys() const { return position + tokens; }
};

ROLLCALL_INLINE int64_t RoundDown(int64_t a, int64_t b) { return a / b * b; }

// Lanes of keys j .. j + 15 where those outside [first, n) hold `fill`.
ROLLCALL_INLINE Lanes LoadKeys(const float* scores, int64_t j, int64_t first, int64_t n,
                               float fill) {
  if (j >= first) return LoadLanes(scores + j, n - j, fill);
  float buffer[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    buffer[i] = j + i >= first && j + i < n ? scores[j + i] : fill;
  }
  return LoadLanes(buffer);
}

// Copies the tile's rows out of x: [tokens, heads, head_dim], widened, into rows of `stride`
// floats.
template <typename T>
void GatherRows(const T* x, const AttentionShape& shape, int64_t token, int64_t kv_head,
                const QueryTile& tile, int64_t stride, float* out) {
  for (int64_t r = 0; r < tile.Rows(); ++r, out += stride) {
    const T* in =
        x + ((token + r / tile.group) * shape.heads + kv_head * tile.group + r % tile.group) *
                shape.head_dim;
    for (int64_t c = 0; c < shape.head_dim; c += kLanes) {
      const int64_t count = Min(shape.head_dim - c, stride - c);
      StoreLanes(out + c, LoadLanes(in + c, count, 0.0f), count);
    }
  }
}

template <typename T>
void ScatterRows(const float* rows, const AttentionShape& shape, int64_t token, int64_t kv_head,
                 const QueryTile& tile, int64_t stride, T* x) {
  for (int64_t r = 0; r < tile.Rows(); ++r, rows += stride) {
    T* out = x + ((token + r / tile.group) * shape.heads + kv_head * tile.group + r % tile.group) *
                     shape.head_dim;
    for (int64_t c = 0; c < shape.head_dim; c += kLanes) {
      const int64_t count = shape.head_dim - c;
      StoreLanes(out + c, LoadLanes(rows + c, count, 0.0f), count);
    }
  }
}

// scores[r][j] = q_r . k_j for every key that a row of the tile sees, and for others of the same
// vectors; columns up to the next multiple of kLanes are written too.
template <typename T>
void TileScores(const QueryTile& tile, int64_t head_dim, const float* q,
                const KeyValueBlocks<T>& kv, float* scores, int64_t stride) {
  AllScores(kv, tile.Rows(), head_dim, q, RoundDown(tile.Begin(), kLanes),
            RoundUp(tile.MostKeys(), kLanes), scores, stride);
}

// Scales and soft-caps scores [begin, n) in place; `slope`, where not null, as SoftCapArgs has it.
void CapScores(const AttentionShape& shape, int64_t begin, int64_t n, float* scores, float* slope) {
  const Lanes scale = SplatLanes(shape.scale), cap = SplatLanes(shape.softcap);
  const Lanes inverse = SplatLanes(1.0f / shape.softcap);
  for (int64_t j = RoundDown(begin, kLanes); j < n; j += kLanes) {
    const Lanes tanh = Tanh(LoadLanes(scores + j) * scale * inverse);
    StoreLanes(scores + j, tanh * cap);
    if (slope != nullptr) StoreLanes(slope + j, CapSlope(tanh));
  }
}

// Turns the scores of keys [first, n) into their exponentials and returns one over their sum. Zero
// for the other keys of the vectors that hold those.
float SoftmaxRow(float* scores, int64_t first, int64_t n, float scale) {
  const float lowest = -__builtin_inff();
  const int64_t begin = RoundDown(first, kLanes);
  Lanes largest = SplatLanes(lowest);
  for (int64_t j = begin; j < n; j += kLanes) {
    const Lanes scaled = LoadKeys(scores, j, first, n, lowest) * SplatLanes(scale);
    largest = Larger(scaled, largest);
  }
  const Lanes m = SplatLanes(LargestOf(largest));
  Lanes sum = SplatLanes(0.0f);
  for (int64_t j = begin; j < n; j += kLanes) {
    const Lanes e = Exp(LoadKeys(scores, j, first, n, 0.0f) * SplatLanes(scale) - m);
    StoreLanes(scores + j, e);
    if (j < first || n - j < kLanes) StoreLanes(scores + j, LoadKeys(scores, j, first, n, 0.0f));
    sum = sum + LoadLanes(scores + j);
  }
  return 1.0f / SumOf(sum);
}

// SoftmaxRow of row r of the tile, whatever the shape asks for.
float TileSoftmax(const QueryTile& tile, int64_t r, const AttentionShape& shape, float* scores,
                  float* slope) {
  if (shape.softcap == 0) return SoftmaxRow(scores, tile.First(r), tile.End(r), shape.scale);
  CapScores(shape, tile.First(r), tile.End(r), scores, slope);
  return SoftmaxRow(scores, tile.First(r), tile.End(r), 1.0f);
}

// out[r] = sum of weights[r][j] * v_j over the row's own keys, upwards. Keys that all rows see go
// through the register tile; those before and after, fewer than the tile has tokens, row by row. A
// masked key is never touched, whatever it holds.
template <typename T>
void TileValues(const QueryTile& tile, int64_t padded_head, const float* weights, int64_t stride,
                const KeyValueBlocks<T>& kv, float* out) {
  const int64_t shared = tile.SharedBegin(), shared_end = tile.SharedEnd();
  const bool windowed = shared > 0;
  if (windowed) {
    for (int64_t i = 0; i < tile.Rows() * padded_head; ++i) out[i] = 0.0f;
    for (int64_t r = 0; r < tile.Rows(); ++r) {
      AddValues(kv, tile.First(r), shared, 1, weights + r * stride, stride, padded_head, true,
                out + r * padded_head);
    }
  }
  AddValues(kv, shared, shared_end, tile.Rows(), weights, stride, padded_head, windowed, out);
  for (int64_t r = 0; r < tile.Rows(); ++r) {
    AddValues(kv, Max(shared_end, tile.First(r)), tile.End(r), 1, weights + r * stride, stride,
              padded_head, true, out + r * padded_head);
  }
}

template <typename T>
void AttendTile(const QueryTile& tile, const AttentionShape& shape, const float* q,
                const KeyValueBlocks<T>& kv, float* scores, float* out) {
  const int64_t stride = RoundUp(tile.MostKeys(), kLanes);
  const int64_t padded_head = PaddedHead(shape.head_dim);
  if (kv.table != nullptr) FetchFirstValues(kv, tile.Begin(), tile.MostKeys(), padded_head);
  TileScores(tile, shape.head_dim, q, kv, scores, stride);
  float inverse[kMaxGroup];
  for (int64_t r = 0; r < tile.Rows(); ++r) {
    inverse[r] = TileSoftmax(tile, r, shape, scores + r * stride, nullptr);
  }
  TileValues(tile, padded_head, scores, stride, kv, out);
  for (int64_t r = 0; r < tile.Rows(); ++r) {
    float* row = out + r * padded_head;
    for (int64_t c = 0; c < padded_head; c += kLanes) {
      StoreLanes(row + c, LoadLanes(row + c) * SplatLanes(inverse[r]));
    }
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
