#pragma once

// Gradients of packed attention. Included only by the kernels_*.cc files.

#include "common/model/kernels/attention_impl.h"

namespace rollcall::model::kernels {
namespace {

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

// Turns the exponentials of keys [first, n) into probabilities p = e * inverse and their gradients dp
// into those of the scores before scale: ds_j = p_j (dp_j - sum_i p_i dp_i / sum_i p_i) * scale, times
// slope_j where slope is not null; both sums are lane sums. Both arrays are set to zero for the other
// keys in [begin, end).
void SoftmaxRowBackward(float* p, float* dp, const float* slope, int64_t begin, int64_t first,
                        int64_t n, int64_t end, float inverse, float scale) {
  const Lanes zero = SplatLanes(0.0f);
  const int64_t from = RoundDown(first, kLanes), to = RoundUp(n, kLanes);
  // Divided by what the rounded probabilities add up to, so that the ds of a row cancel: the
  // gradient of a key's bias is nothing but what is left of them.
  Lanes sum = zero, mass = zero;
  for (int64_t j = from; j < to; j += kLanes) {
    const Lanes probability = LoadLanes(p + j) * SplatLanes(inverse);
    StoreLanes(p + j, probability);
    sum = Fma(probability, LoadLanes(dp + j), sum);
    mass = mass + probability;
  }
  const Lanes mean = SplatLanes(SumOf(sum) / SumOf(mass));
  for (int64_t j = from; j < to; j += kLanes) {
    const Lanes ds = LoadLanes(p + j) * (LoadLanes(dp + j) - mean) * SplatLanes(scale);
    StoreLanes(dp + j, slope == nullptr ? ds : ds * LoadLanes(slope + j));
  }
  for (int64_t j = begin; j < from; j += kLanes) {
    StoreLanes(p + j, zero);
    StoreLanes(dp + j, zero);
  }
  for (int64_t j = to; j < end; j += kLanes) {
    StoreLanes(p + j, zero);
    StoreLanes(dp + j, zero);
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
  float* slope = shape.softcap == 0 ? nullptr : carver.Take(padded);
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
    const QueryTile tile{token, Min(tile_tokens, n - token), group, shape.window};
    const int64_t rows = tile.Rows(), keys_seen = RoundUp(tile.MostKeys(), kLanes);
    const int64_t begin_seen = RoundDown(tile.Begin(), kLanes);
    const int64_t seen = tile.MostKeys() - begin_seen;
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
      const float inverse = TileSoftmax(tile, r, shape, row, slope);
      SoftmaxRowBackward(row, dp + r * keys_seen, slope, begin_seen, tile.First(r), tile.End(r),
                         keys_seen, inverse, shape.scale);
    }
    BlockGemm(rows, padded_head, seen, dp + begin_seen, keys_seen, 1,
              key_rows + begin_seen * padded_head, padded_head, dq, padded_head, false);
    BlockGemm(seen, padded_head, rows, p + begin_seen, 1, keys_seen, dout, padded_head,
              dv + begin_seen * padded_head, padded_head, true);
    BlockGemm(seen, padded_head, rows, dp + begin_seen, 1, keys_seen, q, padded_head,
              dk + begin_seen * padded_head, padded_head, true);
    ScatterRows(dq, shape, begin + token, kv_head, tile, padded_head, static_cast<T*>(args.dq));
  }
  StoreHeadRows(dk, shape, begin, end, kv_head, static_cast<T*>(args.dk));
  StoreHeadRows(dv, shape, begin, end, kv_head, static_cast<T*>(args.dv));
}

void PackedAttentionBackward(const PackedAttentionArgs& args, int64_t begin, int64_t end,
                             int64_t kv_head, float* scratch) {
  WithElement(args.shape.type, [&](auto* t) {
    PackedBackward<PointeeOf<decltype(t)>>(args, begin, end, kv_head, scratch);
  });
}

}  // namespace
}  // namespace rollcall::model::kernels
