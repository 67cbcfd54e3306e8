#pragma once

// Attention forward: packed sequences and the paged cache. Included only by the kernels_*.cc files.

#include "common/model/kernels/attention_tile_impl.h"

namespace rollcall::model::kernels {
namespace {

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
    const QueryTile tile{token, Min(tile_tokens, n - token), group, shape.window};
    GatherRows(static_cast<const T*>(args.q), shape, begin + token, kv_head, tile, d, q);
    AttendTile(tile, shape, q, kv, scores, out);
    ScatterRows(out, shape, begin + token, kv_head, tile, padded_head, static_cast<T*>(args.out));
  }
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
    const QueryTile tile{query.start + token, Min(tile_tokens, query.count - token), group,
                         shape.window};
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
void PagedAttention(const PagedAttentionArgs& args, const PagedQuery& query, int64_t kv_head,
                    float* scratch) {
  WithElement(args.shape.type, [&](auto* t) {
    PagedForward<PointeeOf<decltype(t)>>(args, query, kv_head, scratch);
  });
}

}  // namespace
}  // namespace rollcall::model::kernels
