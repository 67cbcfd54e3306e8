#pragma once

// The decoder's operations in plain, differentiable LibTorch: every device that our kernels do not
// serve, and the reference that tests compare the kernels with. Activations keep their dtype;
// inside, sums are float32.

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <vector>

#include "common/model/attention_rule.h"
#include "common/model/kernels/arguments.h"
#include "common/model/kv_cache.h"

namespace rollcall::model {

struct PagedSequence;

namespace aten {

at::Tensor Embed(const at::Tensor& table, const at::Tensor& ids);
// y: [tokens, n] of dtype `type`; the bias may be undefined.
at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  at::ScalarType type);
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon, bool unit_offset);
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& table);
at::Tensor Glu(kernels::Activation activation, const at::Tensor& gate, const at::Tensor& up);
at::Tensor SoftCap(const at::Tensor& x, double cap);
at::Tensor AttendPacked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const std::vector<int64_t>& cu_seqlens, const AttentionRule& rule);
at::Tensor AttendPaged(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const std::vector<PagedSequence>& sequences, const KvCache& cache,
                       int64_t layer, const AttentionRule& rule);

}  // namespace aten
}  // namespace rollcall::model
