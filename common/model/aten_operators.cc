#include "common/model/aten_operators.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>

#include <limits>

#include "common/model/attention_context.h"

namespace rollcall::model::aten {

at::Tensor Embed(const at::Tensor& table, const at::Tensor& ids) {
  return table.index_select(0, ids);
}

at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight) {
  return at::matmul(x, weight.t());
}

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor inverse = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + epsilon);
  return (wide * inverse * weight.to(at::kFloat)).to(x.scalar_type());
}

at::Tensor Rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& table) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor rows = table.index_select(0, positions).unsqueeze(1);
  const at::Tensor c = rows.narrow(2, 0, half), s = rows.narrow(2, half, half);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor low = wide.narrow(2, 0, half), high = wide.narrow(2, half, half);
  return at::cat({low * c - high * s, high * c + low * s}, 2).to(x.scalar_type());
}

at::Tensor SwiGlu(const at::Tensor& gate, const at::Tensor& up) {
  return (at::silu(gate.to(at::kFloat)) * up.to(at::kFloat)).to(gate.scalar_type());
}

namespace {

// q: [count, heads, d] at positions start …; k, v: [n, kv_heads, d] -> [count, heads, d].
at::Tensor AttendSequence(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          int64_t start, double scale) {
  const int64_t count = q.size(0), heads = q.size(1), n = k.size(0), kv_heads = k.size(1);
  const auto expand = [&](const at::Tensor& x) {
    return x.to(at::kFloat).repeat_interleave(heads / kv_heads, 1).transpose(0, 1);
  };
  const at::Tensor queries = q.to(at::kFloat).transpose(0, 1);
  const at::Tensor scores = at::matmul(queries, expand(k).transpose(1, 2)) * scale;
  const auto integers = at::TensorOptions().dtype(at::kLong).device(q.device());
  const at::Tensor hidden = at::arange(n, integers).unsqueeze(0) >
                            at::arange(start, start + count, integers).unsqueeze(1);
  const at::Tensor weights =
      at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1);
  return at::matmul(weights, expand(v)).transpose(0, 1).to(q.scalar_type());
}

}  // namespace

at::Tensor AttendPacked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const std::vector<int64_t>& cu_seqlens, double scale) {
  std::vector<at::Tensor> outputs;
  for (size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t begin = cu_seqlens[i], count = cu_seqlens[i + 1] - begin;
    outputs.push_back(AttendSequence(q.narrow(0, begin, count), k.narrow(0, begin, count),
                                     v.narrow(0, begin, count), 0, scale));
  }
  return at::cat(outputs, 0);
}

at::Tensor AttendPaged(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const std::vector<PagedSequence>& sequences, const KvCache& cache,
                       int64_t layer, double scale) {
  const int64_t head_dim = q.size(2), kv_heads = k.size(1), block_size = cache.block_size();
  const at::Tensor& keys = cache.keys(layer);
  const at::Tensor& values = cache.values(layer);
  std::vector<at::Tensor> outputs;
  int64_t row = 0;
  for (const PagedSequence& sequence : sequences) {
    for (int64_t i = 0; i < sequence.count; ++i) {
      const int64_t position = sequence.start + i, slot = position % block_size;
      const int64_t block = sequence.block_table[position / block_size];
      keys.select(0, block).select(2, slot).copy_(k.select(0, row + i));
      values.select(0, block).select(1, slot).narrow(1, 0, head_dim).copy_(v.select(0, row + i));
    }
    const int64_t n = sequence.start + sequence.count;
    const int64_t blocks = (n + block_size - 1) / block_size;
    const at::Tensor table = at::tensor(at::ArrayRef<int32_t>(sequence.block_table.data(), blocks),
                                        at::TensorOptions().dtype(at::kInt))
                                 .to(q.device());
    const at::Tensor all_keys = keys.index_select(0, table)
                                    .permute({0, 3, 1, 2})
                                    .reshape({blocks * block_size, kv_heads, head_dim});
    const at::Tensor all_values = values.index_select(0, table)
                                      .permute({0, 2, 1, 3})
                                      .reshape({blocks * block_size, kv_heads, values.size(3)})
                                      .narrow(2, 0, head_dim);
    outputs.push_back(AttendSequence(q.narrow(0, row, sequence.count), all_keys.narrow(0, 0, n),
                                     all_values.narrow(0, 0, n), sequence.start, scale));
    row += sequence.count;
  }
  return at::cat(outputs, 0);
}

}  // namespace rollcall::model::aten
