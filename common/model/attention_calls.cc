#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>

#include <algorithm>

#include "common/model/attention_context.h"
#include "common/model/kernel_calls.h"
#include "common/model/parallel.h"

namespace rollcall::model {
namespace {

kernels::AttentionShape ShapeOf(const at::Tensor& q, int64_t kv_heads, const AttentionRule& rule) {
  return {q.size(1),    kv_heads,
          q.size(2),    static_cast<float>(rule.scale),
          ElementOf(q), static_cast<float>(rule.softcap),
          rule.window};
}

int64_t LongestSequence(const std::vector<int64_t>& cu_seqlens) {
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    longest = std::max(longest, cu_seqlens[i + 1] - cu_seqlens[i]);
  }
  return longest;
}

int64_t AttentionWork(const at::Tensor& q, int64_t longest) { return q.numel() * longest; }

// Stores one token's head vector: a column of the transposed key block, a row of the value block.
template <typename T>
void AppendTokens(const at::Tensor& k, const at::Tensor& v, const PagedSequence& sequence,
                  int64_t row, const KvCache& cache, int64_t layer) {
  const int64_t kv_heads = k.size(1), head_dim = k.size(2), block_size = cache.block_size();
  const int64_t padded_head = kernels::PaddedHead(head_dim);
  const T* new_keys = k.const_data_ptr<T>() + row * kv_heads * head_dim;
  const T* new_values = v.const_data_ptr<T>() + row * kv_heads * head_dim;
  T* keys = cache.keys(layer).mutable_data_ptr<T>();
  T* values = cache.values(layer).mutable_data_ptr<T>();
  for (int64_t i = 0; i < sequence.count; ++i) {
    const int64_t position = sequence.start + i;
    const int64_t block = sequence.block_table[position / block_size];
    const int64_t slot = position % block_size;
    for (int64_t h = 0; h < kv_heads; ++h, new_keys += head_dim, new_values += head_dim) {
      T* key_column = keys + (block * kv_heads + h) * head_dim * block_size + slot;
      T* value_row = values + ((block * kv_heads + h) * block_size + slot) * padded_head;
      for (int64_t c = 0; c < head_dim; ++c) {
        key_column[c * block_size] = new_keys[c];
        value_row[c] = new_values[c];
      }
    }
  }
}

}  // namespace

at::Tensor PackedAttentionForward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const std::vector<int64_t>& cu_seqlens,
                                  const AttentionRule& rule) {
  at::Tensor out = at::empty_like(q);
  kernels::PackedAttentionArgs args{};
  args.shape = ShapeOf(q, k.size(1), rule);
  args.q = q.const_data_ptr();
  args.k = k.const_data_ptr();
  args.v = v.const_data_ptr();
  args.out = out.mutable_data_ptr();
  const int64_t longest = LongestSequence(cu_seqlens), kv_heads = k.size(1);
  const auto sequences = static_cast<int64_t>(cu_seqlens.size()) - 1;
  ParallelTasks(sequences * kv_heads, PackedAttentionScratch(args.shape, longest, false),
                AttentionWork(q, longest), [&](int64_t task, float* scratch) {
                  const int64_t i = task / kv_heads;
                  kernels::Kernels().packed_attention(args, cu_seqlens[i], cu_seqlens[i + 1],
                                                      task % kv_heads, scratch);
                });
  return out;
}

QkvGradients PackedAttentionBackward(const at::Tensor& dout, const at::Tensor& q,
                                     const at::Tensor& k, const at::Tensor& v,
                                     const std::vector<int64_t>& cu_seqlens,
                                     const AttentionRule& rule) {
  QkvGradients gradients{at::empty_like(q), at::empty_like(k), at::empty_like(v)};
  kernels::PackedAttentionArgs args{};
  args.shape = ShapeOf(q, k.size(1), rule);
  args.q = q.const_data_ptr();
  args.k = k.const_data_ptr();
  args.v = v.const_data_ptr();
  args.dout = dout.const_data_ptr();
  args.dq = gradients.dq.mutable_data_ptr();
  args.dk = gradients.dk.mutable_data_ptr();
  args.dv = gradients.dv.mutable_data_ptr();
  const int64_t longest = LongestSequence(cu_seqlens), kv_heads = k.size(1);
  const auto sequences = static_cast<int64_t>(cu_seqlens.size()) - 1;
  ParallelTasks(sequences * kv_heads, PackedAttentionScratch(args.shape, longest, true),
                2 * AttentionWork(q, longest), [&](int64_t task, float* scratch) {
                  const int64_t i = task / kv_heads;
                  kernels::Kernels().packed_attention_backward(
                      args, cu_seqlens[i], cu_seqlens[i + 1], task % kv_heads, scratch);
                });
  return gradients;
}

at::Tensor PagedAttentionForward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const std::vector<PagedSequence>& sequences, const KvCache& cache,
                                 int64_t layer, const AttentionRule& rule) {
  at::Tensor out = at::empty_like(q);
  const kernels::AttentionShape shape = ShapeOf(q, k.size(1), rule);
  const kernels::PagedAttentionArgs args{shape,
                                         q.const_data_ptr(),
                                         out.mutable_data_ptr(),
                                         cache.keys(layer).const_data_ptr(),
                                         cache.values(layer).const_data_ptr(),
                                         cache.block_size()};
  const int64_t tile = kernels::TileTokens(shape);
  std::vector<kernels::PagedQuery> queries;
  int64_t row = 0, longest = 0;
  for (const PagedSequence& sequence : sequences) {
    if (shape.type == kernels::Element::kFloat32) {
      AppendTokens<float>(k, v, sequence, row, cache, layer);
    } else {
      AppendTokens<at::BFloat16>(k, v, sequence, row, cache, layer);
    }
    for (int64_t i = 0; i < sequence.count; i += tile) {
      queries.push_back({sequence.block_table.data(), sequence.start + i, row + i,
                         std::min(tile, sequence.count - i)});
    }
    longest = std::max(longest, sequence.start + sequence.count);
    row += sequence.count;
  }
  const int64_t kv_heads = shape.kv_heads;
  ParallelTasks(static_cast<int64_t>(queries.size()) * kv_heads,
                PagedAttentionScratch(shape, longest), AttentionWork(q, longest),
                [&](int64_t task, float* scratch) {
                  kernels::Kernels().paged_attention(args, queries[task / kv_heads],
                                                     task % kv_heads, scratch);
                });
  return out;
}

}  // namespace rollcall::model
