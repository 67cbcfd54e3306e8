#include "common/model/aten_operators.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tensor.h>

#include <limits>

#include "common/model/attention_context.h"

namespace rollcall::model::aten {

at::Tensor Embed(const at::Tensor& table, const at::Tensor& ids) {
  return table.index_select(0, ids);
}

at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  at::ScalarType type) {
  const at::Tensor y = at::matmul(x.to(type), weight.to(type).t());
  return bias.defined() ? y + bias.to(type) : y;
}

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon,
                   bool unit_offset) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor inverse = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + epsilon);
  const at::Tensor factor = weight.to(at::kFloat);
  return (wide * inverse * (unit_offset ? factor + 1.0 : factor)).to(x.scalar_type());
}

at::Tensor Rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& table) {
  const int64_t rotated = table.size(1), half = rotated / 2;
  const at::Tensor rows = table.index_select(0, positions).unsqueeze(1);
  const at::Tensor c = rows.narrow(2, 0, half), s = rows.narrow(2, half, half);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor low = wide.narrow(2, 0, half), high = wide.narrow(2, half, half);
  const at::Tensor rest = wide.narrow(2, rotated, x.size(2) - rotated);
  return at::cat({low * c - high * s, high * c + low * s, rest}, 2).to(x.scalar_type());
}

at::Tensor Glu(kernels::Activation activation, const at::Tensor& gate, const at::Tensor& up) {
  const at::Tensor wide = gate.to(at::kFloat);
  const at::Tensor value =
      activation == kernels::Activation::kSilu ? at::silu(wide) : at::gelu(wide, "tanh");
  return (value * up.to(at::kFloat)).to(gate.scalar_type());
}

at::Tensor SoftCap(const at::Tensor& x, double cap) { return at::tanh(x / cap) * cap; }

namespace {

// q: [count, heads, d] at positions start …; k, v: [n, kv_heads, d] -> [count, heads, d].
at::Tensor AttendSequence(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          int64_t start, const AttentionRule& rule) {
  const int64_t count = q.size(0), heads = q.size(1), n = k.size(0), kv_heads = k.size(1);
  const auto expand = [&](const at::Tensor& x) {
    return x.to(at::kFloat).repeat_interleave(heads / kv_heads, 1).transpose(0, 1);
  };
  const at::Tensor queries = q.to(at::kFloat).transpose(0, 1);
  at::Tensor scores = at::matmul(queries, expand(k).transpose(1, 2)) * rule.scale;
  if (rule.softcap > 0) scores = SoftCap(scores, rule.softcap);
  const auto integers = at::TensorOptions().dtype(at::kLong).device(q.device());
  const at::Tensor keys = at::arange(n, integers).unsqueeze(0);
  const at::Tensor position = at::arange(start, start + count, integers).unsqueeze(1);
  at::Tensor hidden = keys > position;
  if (rule.window > 0) hidden = hidden.logical_or(keys <= position - rule.window);
  const at::Tensor weights =
      at::softmax(scores.masked_fill(hidden, -std::numeric_limits<double>::infinity()), -1);
  return at::matmul(weights, expand(v)).transpose(0, 1).to(q.scalar_type());
}

}  // namespace

at::Tensor AttendPacked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const std::vector<int64_t>& cu_seqlens, const AttentionRule& rule) {
  std::vector<at::Tensor> outputs;
  for (size_t i = 0; i + 1 < cu_seqlens.size(); ++i) {
    const int64_t begin = cu_seqlens[i], count = cu_seqlens[i + 1] - begin;
    outputs.push_back(AttendSequence(q.narrow(0, begin, count), k.narrow(0, begin, count),
                                     v.narrow(0, begin, count), 0, rule));
  }
  return at::cat(outputs, 0);
}

at::Tensor AttendPaged(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const std::vector<PagedSequence>& sequences, const KvCache& cache,
                       int64_t layer, const AttentionRule& rule) {
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
                                     all_values.narrow(0, 0, n), sequence.start, rule));
    row += sequence.count;
  }
  return at::cat(outputs, 0);
}

}  // namespace rollcall::model::aten
