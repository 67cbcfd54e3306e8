#pragma once

// The decoder's operations in plain, differentiable LibTorch: every device that our kernels do not
// serve, and the reference that tests compare the kernels with. Activations keep their dtype;
// inside, sums are float32.

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <vector>

#include "common/model/kv_cache.h"

namespace rollcall::model {

struct PagedSequence;

namespace aten {

at::Tensor Embed(const at::Tensor& table, const at::Tensor& ids);
at::Tensor Linear(const at::Tensor& x, const at::Tensor& weight);
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double epsilon);
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& table);
at::Tensor SwiGlu(const at::Tensor& gate, const at::Tensor& up);
at::Tensor AttendPacked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const std::vector<int64_t>& cu_seqlens, double scale);
at::Tensor AttendPaged(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                       const std::vector<PagedSequence>& sequences, const KvCache& cache,
                       int64_t layer, double scale);

}  // namespace aten
}  // namespace rollcall::model
