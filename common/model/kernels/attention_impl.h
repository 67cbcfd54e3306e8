#pragma once

// Attention over transposed key blocks, shared by the packed and the paged entry point. Included
// only by the kernels_*.cc files.

#include "common/model/kernels/gemm_impl.h"
#include "common/model/kernels/rows_impl.h"

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

// Query rows of one KV head: `tokens` consecutive positions from `position`, each with the `group`
// heads that share the KV head; row = token * group + head.
struct QueryTile {
  int64_t position, tokens, group;

  int64_t Rows() const { return tokens * group; }
  int64_t Keys(int64_t row) const { return position + row / group + 1; }
  int64_t FewestKeys() const { return position + 1; }
  int64_t MostKeys() const { return position + tokens; }
};

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

// scores[r][j] = q_r . k_j for every key of the tile; columns up to the next multiple of kLanes are
// written too.
template <typename T>
void TileScores(const QueryTile& tile, int64_t head_dim, const float* q,
                const KeyValueBlocks<T>& kv, float* scores, int64_t stride) {
  for (int64_t j = 0; j < tile.MostKeys(); j += kv.block_size) {
    const int64_t columns = Min(kv.block_size, RoundUp(tile.MostKeys() - j, kLanes));
    BlockGemm(tile.Rows(), columns, head_dim, q, head_dim, 1, kv.Keys(j / kv.block_size),
              kv.block_size, scores + j, stride, false);
  }
}

// Turns n scores into their exponentials and returns one over their sum; zero-fills up to `padded`.
float SoftmaxRow(float* scores, int64_t n, int64_t padded, float scale) {
  const float lowest = -__builtin_inff();
  Lanes largest = SplatLanes(lowest);
  for (int64_t j = 0; j < n; j += kLanes) {
    const Lanes scaled = LoadLanes(scores + j, n - j, lowest) * SplatLanes(scale);
    largest = Larger(scaled, largest);
  }
  const Lanes m = SplatLanes(LargestOf(largest));
  Lanes sum = SplatLanes(0.0f);
  for (int64_t j = 0; j < n; j += kLanes) {
    Lanes e = Exp(LoadLanes(scores + j, n - j, 0.0f) * SplatLanes(scale) - m);
    if (n - j < kLanes) {
      float lane[kLanes];
      StoreLanes(lane, e);
      e = LoadLanes(lane, n - j, 0.0f);
    }
    sum = sum + e;
    StoreLanes(scores + j, e);
  }
  for (int64_t j = RoundUp(n, kLanes); j < padded; j += kLanes) {
    StoreLanes(scores + j, SplatLanes(0.0f));
  }
  return 1.0f / SumOf(sum);
}

// out[r] = sum of weights[r][j] * v_j over the row's own keys. Keys that all rows see go through
// the register tile; the last ones, fewer than the tile has tokens, row by row. A masked key is
// never touched, whatever it holds.
template <typename T>
void TileValues(const QueryTile& tile, int64_t padded_head, const float* weights, int64_t stride,
                const KeyValueBlocks<T>& kv, float* out) {
  const int64_t shared = tile.FewestKeys();
  for (int64_t j = 0; j < shared; j += kv.block_size) {
    BlockGemm(tile.Rows(), padded_head, Min(kv.block_size, shared - j), weights + j, stride, 1,
              kv.Values(j / kv.block_size), padded_head, out, padded_head, j > 0);
  }
  for (int64_t r = 0; r < tile.Rows(); ++r) {
    for (int64_t j = shared; j < tile.Keys(r);) {
      const int64_t block = j / kv.block_size, within = j % kv.block_size;
      const int64_t count = Min(kv.block_size - within, tile.Keys(r) - j);
      BlockGemm(1, padded_head, count, weights + r * stride + j, stride, 1,
                kv.Values(block) + within * padded_head, padded_head, out + r * padded_head,
                padded_head, true);
      j += count;
    }
  }
}

template <typename T>
void AttendTile(const QueryTile& tile, const AttentionShape& shape, const float* q,
                const KeyValueBlocks<T>& kv, float* scores, float* out) {
  const int64_t stride = RoundUp(tile.MostKeys(), kLanes);
  const int64_t padded_head = PaddedHead(shape.head_dim);
  TileScores(tile, shape.head_dim, q, kv, scores, stride);
  float inverse[kMaxGroup];
  for (int64_t r = 0; r < tile.Rows(); ++r) {
    inverse[r] = SoftmaxRow(scores + r * stride, tile.Keys(r), 0, shape.scale);
  }
  TileValues(tile, padded_head, scores, stride, kv, out);
  for (int64_t r = 0; r < tile.Rows(); ++r) {
    float* row = out + r * padded_head;
    for (int64_t c = 0; c < padded_head; c += kLanes) {
      StoreLanes(row + c, LoadLanes(row + c) * SplatLanes(inverse[r]));
    }
  }
}

// Keys of a packed sequence are cut into blocks of this many, as in the cache.
constexpr int64_t kPackedBlock = 32;

// A carving of one scratch allocation; every piece is a multiple of kLanes floats.
struct Carver {
  float* next;
  float* Take(int64_t floats) {
    float* piece = next;
    next += RoundUp(floats, kLanes);
    return piece;
  }
};

// Copies one KV head of tokens [begin, end) of x: [tokens, kv_heads, head_dim], widened, into
// blocks of [head_dim][kPackedBlock], zero-filled to whole blocks.
template <typename T>
void GatherTransposed(const T* x, const AttentionShape& shape, int64_t begin, int64_t end,
                      int64_t kv_head, float* out) {
  const int64_t d = shape.head_dim, n = end - begin;
  for (int64_t j = 0; j < RoundUp(n, kPackedBlock); ++j) {
    const T* in = x + ((begin + Min(j, n - 1)) * shape.kv_heads + kv_head) * d;
    float* column = out + (j / kPackedBlock) * d * kPackedBlock + j % kPackedBlock;
    for (int64_t c = 0; c < d; ++c) column[c * kPackedBlock] = j < n ? Widen(in[c]) : 0.0f;
  }
}

// The same tokens as rows of PaddedHead(head_dim) floats, zero-filled.
template <typename T>
void GatherPadded(const T* x, const AttentionShape& shape, int64_t begin, int64_t end,
                  int64_t kv_head, float* out) {
  const int64_t d = shape.head_dim, padded_head = PaddedHead(d), n = end - begin;
  for (int64_t j = 0; j < RoundUp(n, kPackedBlock); ++j, out += padded_head) {
    const T* in = x + ((begin + Min(j, n - 1)) * shape.kv_heads + kv_head) * d;
    for (int64_t c = 0; c < padded_head; c += kLanes) {
      StoreLanes(out + c, LoadLanes(in + c, j < n ? d - c : 0, 0.0f));
    }
  }
}

template <typename T>
void PackedForward(const PackedAttentionArgs& args, int64_t begin, int64_t end, int64_t kv_head,
                   float* scratch) {
  const AttentionShape& shape = args.shape;
  const int64_t d = shape.head_dim, padded_head = PaddedHead(d), n = end - begin;
  const int64_t padded = RoundUp(n, kPackedBlock), group = shape.heads / shape.kv_heads;
  const int64_t tile_tokens = TileTokens(shape), rows = tile_tokens * group;
  Carver carver{scratch};
  float* keys = carver.Take(padded * d);
  float* values = carver.Take(padded * padded_head);
  float* q = carver.Take(rows * d);
  float* out = carver.Take(rows * padded_head);
  float* scores = carver.Take(rows * padded);
  GatherTransposed(static_cast<const T*>(args.k), shape, begin, end, kv_head, keys);
  GatherPadded(static_cast<const T*>(args.v), shape, begin, end, kv_head, values);
  const KeyValueBlocks<float> kv{
      keys, values, nullptr, d * kPackedBlock, padded_head * kPackedBlock, kPackedBlock};
  for (int64_t token = 0; token < n; token += tile_tokens) {
    const QueryTile tile{token, Min(tile_tokens, n - token), group};
    GatherRows(static_cast<const T*>(args.q), shape, begin + token, kv_head, tile, d, q);
    AttendTile(tile, shape, q, kv, scores, out);
    ScatterRows(out, shape, begin + token, kv_head, tile, padded_head, static_cast<T*>(args.out));
  }
}

template <typename T>
void StoreHeadRows(const float* rows, const AttentionShape& shape, int64_t begin, int64_t end,
                   int64_t kv_head, T* x) {
  for (int64_t j = begin; j < end; ++j, rows += PaddedHead(shape.head_dim)) {
    T* out = x + (j * shape.kv_heads + kv_head) * shape.head_dim;
    for (int64_t c = 0; c < shape.head_dim; c += kLanes) {
      StoreLanes(out + c, LoadLanes(rows + c), shape.head_dim - c);
    }
  }
}

// Overwrites probabilities p and their gradients dp of one row with the gradient of the scores
// (before scale): ds_j = p_j (dp_j - sum_i p_i dp_i) * scale.
void SoftmaxRowBackward(const float* p, float* dp, int64_t n, float scale) {
  Lanes sum = SplatLanes(0.0f);
  for (int64_t j = 0; j < n; j += kLanes) {
    sum = Fma(LoadLanes(p + j), LoadLanes(dp + j), sum);
  }
  const Lanes mean = SplatLanes(SumOf(sum));
  for (int64_t j = 0; j < n; j += kLanes) {
    StoreLanes(dp + j, LoadLanes(p + j) * (LoadLanes(dp + j) - mean) * SplatLanes(scale));
  }
}

template <typename T>
void PackedBackward(const PackedAttentionArgs& args, int64_t begin, int64_t end, int64_t kv_head,
                    float* scratch) {
  const AttentionShape& shape = args.shape;
  const int64_t d = shape.head_dim, padded_head = PaddedHead(d), n = end - begin;
  const int64_t padded = RoundUp(n, kPackedBlock), group = shape.heads / shape.kv_heads;
  const int64_t tile_tokens = TileTokens(shape), max_rows = tile_tokens * group;
  Carver carver{scratch};
  float* keys = carver.Take(padded * d);
  float* key_rows = carver.Take(padded * padded_head);
  float* values = carver.Take(padded * d);
  float* dk = carver.Take(padded * padded_head);
  float* dv = carver.Take(padded * padded_head);
  float* q = carver.Take(max_rows * padded_head);
  float* dout = carver.Take(max_rows * padded_head);
  float* dq = carver.Take(max_rows * padded_head);
  float* p = carver.Take(max_rows * padded);
  float* dp = carver.Take(max_rows * padded);
  float* q_dense = carver.Take(max_rows * d);
  float* dout_dense = carver.Take(max_rows * d);
  GatherTransposed(static_cast<const T*>(args.k), shape, begin, end, kv_head, keys);
  GatherPadded(static_cast<const T*>(args.k), shape, begin, end, kv_head, key_rows);
  GatherTransposed(static_cast<const T*>(args.v), shape, begin, end, kv_head, values);
  const KeyValueBlocks<float> score_blocks{keys, nullptr,     nullptr, d * kPackedBlock,
                                           0,    kPackedBlock};
  const KeyValueBlocks<float> value_blocks{values,           nullptr, nullptr,
                                           d * kPackedBlock, 0,       kPackedBlock};
  for (int64_t i = 0; i < padded * padded_head; ++i) dk[i] = dv[i] = 0.0f;
  for (int64_t i = 0; i < max_rows * padded_head; ++i) q[i] = dout[i] = 0.0f;
  for (int64_t token = 0; token < n; token += tile_tokens) {
    const QueryTile tile{token, Min(tile_tokens, n - token), group};
    const int64_t rows = tile.Rows(), keys_seen = RoundUp(tile.MostKeys(), kLanes);
    GatherRows(static_cast<const T*>(args.q), shape, begin + token, kv_head, tile, d, q_dense);
    GatherRows(static_cast<const T*>(args.dout), shape, begin + token, kv_head, tile, d,
               dout_dense);
    GatherRows(static_cast<const T*>(args.q), shape, begin + token, kv_head, tile, padded_head, q);
    GatherRows(static_cast<const T*>(args.dout), shape, begin + token, kv_head, tile, padded_head,
               dout);
    TileScores(tile, d, q_dense, score_blocks, p, keys_seen);
    TileScores(tile, d, dout_dense, value_blocks, dp, keys_seen);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = p + r * keys_seen;
      const Lanes inverse = SplatLanes(SoftmaxRow(row, tile.Keys(r), keys_seen, shape.scale));
      for (int64_t j = 0; j < keys_seen; j += kLanes) {
        StoreLanes(row + j, LoadLanes(row + j) * inverse);
      }
      SoftmaxRowBackward(row, dp + r * keys_seen, keys_seen, shape.scale);
    }
    BlockGemm(rows, padded_head, tile.MostKeys(), dp, keys_seen, 1, key_rows, padded_head, dq,
              padded_head, false);
    BlockGemm(tile.MostKeys(), padded_head, rows, p, 1, keys_seen, dout, padded_head, dv,
              padded_head, true);
    BlockGemm(tile.MostKeys(), padded_head, rows, dp, 1, keys_seen, q, padded_head, dk, padded_head,
              true);
    ScatterRows(dq, shape, begin + token, kv_head, tile, padded_head, static_cast<T*>(args.dq));
  }
  StoreHeadRows(dk, shape, begin, end, kv_head, static_cast<T*>(args.dk));
  StoreHeadRows(dv, shape, begin, end, kv_head, static_cast<T*>(args.dv));
}

template <typename T>
void PagedForward(const PagedAttentionArgs& args, const PagedQuery& query, int64_t kv_head,
                  float* scratch) {
  const AttentionShape& shape = args.shape;
  const int64_t d = shape.head_dim, padded_head = PaddedHead(d);
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t tile_tokens = TileTokens(shape), rows = tile_tokens * group;
  Carver carver{scratch};
  float* q = carver.Take(rows * d);
  float* out = carver.Take(rows * padded_head);
  float* scores = carver.next;
  const int64_t key_block = d * args.block_size, value_block = padded_head * args.block_size;
  const KeyValueBlocks<T> kv{static_cast<const T*>(args.keys) + kv_head * key_block,
                             static_cast<const T*>(args.values) + kv_head * value_block,
                             query.block_table,
                             shape.kv_heads * key_block,
                             shape.kv_heads * value_block,
                             args.block_size};
  for (int64_t token = 0; token < query.count; token += tile_tokens) {
    const QueryTile tile{query.start + token, Min(tile_tokens, query.count - token), group};
    GatherRows(static_cast<const T*>(args.q), shape, query.row + token, kv_head, tile, d, q);
    AttendTile(tile, shape, q, kv, scores, out);
    ScatterRows(out, shape, query.row + token, kv_head, tile, padded_head,
                static_cast<T*>(args.out));
  }
}

void PackedAttention(const PackedAttentionArgs& args, int64_t begin, int64_t end, int64_t kv_head,
                     float* scratch) {
  WithElement(args.shape.type, [&](auto* t) {
    PackedForward<PointeeOf<decltype(t)>>(args, begin, end, kv_head, scratch);
  });
}
void PackedAttentionBackward(const PackedAttentionArgs& args, int64_t begin, int64_t end,
                             int64_t kv_head, float* scratch) {
  WithElement(args.shape.type, [&](auto* t) {
    PackedBackward<PointeeOf<decltype(t)>>(args, begin, end, kv_head, scratch);
  });
}
void PagedAttention(const PagedAttentionArgs& args, const PagedQuery& query, int64_t kv_head,
                    float* scratch) {
  WithElement(args.shape.type, [&](auto* t) {
    PagedForward<PointeeOf<decltype(t)>>(args, query, kv_head, scratch);
  });
}

}  // namespace
}  // namespace rollcall::model::kernels
