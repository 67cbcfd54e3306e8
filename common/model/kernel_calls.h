#pragma once

// Tensors in, kernels over all threads, tensors out; no autograd. CPU only.

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "common/model/kernels/kernels.h"
#include "common/model/kv_cache.h"

namespace rollcall::model {

struct PagedSequence;

kernels::Element ElementOf(const at::Tensor& tensor);

// Copies w: [n, k] into panels: a flat tensor of w's dtype.
void PackInto(const at::Tensor& w, at::Tensor& panels);

// Runs one product over all threads (kernels::GemmArgs).
void ParallelGemm(const kernels::GemmArgs& args);

// y = x w^T from packed panels; y: [m, n] of dtype `type`.
at::Tensor LinearForward(const at::Tensor& x, const at::Tensor& panels, int64_t n,
                         at::ScalarType type);
// dx = dy w, dy's dtype.
at::Tensor LinearDx(const at::Tensor& dy, const at::Tensor& w);
// dw (+)= dy^T x, float32 [n, k].
void LinearDw(const at::Tensor& dy, const at::Tensor& x, at::Tensor& dw, bool accumulate);

at::Tensor EmbedForward(const at::Tensor& table, const at::Tensor& ids);
// Sums the rows of dy by token id, each in token order; float32 [vocab, hidden].
at::Tensor EmbedBackward(const at::Tensor& dy, const at::Tensor& ids, int64_t vocab);

at::Tensor RmsNormForward(const at::Tensor& x, const at::Tensor& weight, double epsilon);
// {dx, dweight float32}
std::pair<at::Tensor, at::Tensor> RmsNormBackward(const at::Tensor& dy, const at::Tensor& x,
                                                  const at::Tensor& weight, double epsilon);

at::Tensor RotateForward(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& table,
                         bool inverse);

at::Tensor SwiGluForward(const at::Tensor& gate, const at::Tensor& up);
std::pair<at::Tensor, at::Tensor> SwiGluBackward(const at::Tensor& dy, const at::Tensor& gate,
                                                 const at::Tensor& up);

at::Tensor PackedAttentionForward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const std::vector<int64_t>& cu_seqlens, double scale);
struct QkvGradients {
  at::Tensor dq, dk, dv;
};
QkvGradients PackedAttentionBackward(const at::Tensor& dout, const at::Tensor& q,
                                     const at::Tensor& k, const at::Tensor& v,
                                     const std::vector<int64_t>& cu_seqlens, double scale);

at::Tensor PagedAttentionForward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const std::vector<PagedSequence>& sequences, const KvCache& cache,
                                 int64_t layer, double scale);

}  // namespace rollcall::model
