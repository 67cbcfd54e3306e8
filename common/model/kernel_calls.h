#pragma once

// Tensors in, kernels over all threads, tensors out; no autograd. CPU only.

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "common/model/attention_rule.h"
#include "common/model/kernels/kernels.h"
#include "common/model/kv_cache.h"

namespace rollcall::model {

struct PagedSequence;

kernels::Element ElementOf(const at::Tensor& tensor);

// Copies w: [n, k] into panels: a flat tensor of w's dtype.
void PackInto(const at::Tensor& w, at::Tensor& panels);

// Runs products over all threads, their tasks together (kernels::GemmArgs). They must not write to
// the same places.
void ParallelGemms(std::span<const kernels::GemmArgs> calls);

// A weight w: [n, k] as a product reads it: itself, or its panels (PackInto). The bits are the same;
// panels are faster where x has few rows.
struct Weights {
  at::Tensor tensor;
  bool packed;
};

// The arguments of y = x w^T (+ bias), x: [m, k], y: [m, n]; of dx = dy w; and of dw (+)= dy^T x. All
// contiguous.
kernels::GemmArgs LinearArgs(const at::Tensor& x, const Weights& w, const at::Tensor& bias,
                             at::Tensor& y);
kernels::GemmArgs LinearDxArgs(const at::Tensor& dy, const at::Tensor& w, at::Tensor& dx,
                               bool accumulate);
kernels::GemmArgs LinearDwArgs(const at::Tensor& dy, const at::Tensor& x, at::Tensor& dw,
                               bool accumulate);

// y = x w^T, plus the bias if it is defined; y: [m, n] of dtype `type`.
at::Tensor LinearForward(const at::Tensor& x, const Weights& w, int64_t n, at::ScalarType type,
                         const at::Tensor& bias = {});
// dx = dy w, of dtype `type`.
at::Tensor LinearDx(const at::Tensor& dy, const at::Tensor& w, at::ScalarType type);
// dw (+)= dy^T x, float32 [n, k].
void LinearDw(const at::Tensor& dy, const at::Tensor& x, at::Tensor& dw, bool accumulate);
// The same of several y of one x: dx is the float32 sum of their products, the last one first.
at::Tensor LinearsDx(std::span<const at::Tensor> dys, std::span<const at::Tensor> ws,
                     at::ScalarType type);
std::vector<at::Tensor> LinearsDw(std::span<const at::Tensor> dys, const at::Tensor& x);
// Sums over the rows of dy, in order, in float64; float32 [n].
at::Tensor LinearDbias(const at::Tensor& dy);

at::Tensor EmbedForward(const at::Tensor& table, const at::Tensor& ids);
// Sums the rows of dy by token id, each in token order; float32 [vocab, hidden].
at::Tensor EmbedBackward(const at::Tensor& dy, const at::Tensor& ids, int64_t vocab);

at::Tensor RmsNormForward(const at::Tensor& x, const at::Tensor& weight, double epsilon,
                          bool unit_offset);
// {dx, dweight float32, or undefined where it is not needed}
std::pair<at::Tensor, at::Tensor> RmsNormBackward(const at::Tensor& dy, const at::Tensor& x,
                                                  const at::Tensor& weight, double epsilon,
                                                  bool unit_offset, bool need_weight);

at::Tensor RotateForward(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& table,
                         bool inverse);

at::Tensor GluForward(kernels::Activation activation, const at::Tensor& gate, const at::Tensor& up);
std::pair<at::Tensor, at::Tensor> GluBackward(kernels::Activation activation, const at::Tensor& dy,
                                              const at::Tensor& gate, const at::Tensor& up);

// In place on a float32 tensor; where `slope` is not null it gets the derivative, of x's shape.
void SoftCapInPlace(at::Tensor& x, double cap, at::Tensor* slope);

at::Tensor PackedAttentionForward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const std::vector<int64_t>& cu_seqlens,
                                  const AttentionRule& rule);
struct QkvGradients {
  at::Tensor dq, dk, dv;
};
QkvGradients PackedAttentionBackward(const at::Tensor& dout, const at::Tensor& q,
                                     const at::Tensor& k, const at::Tensor& v,
                                     const std::vector<int64_t>& cu_seqlens,
                                     const AttentionRule& rule);

at::Tensor PagedAttentionForward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const std::vector<PagedSequence>& sequences, const KvCache& cache,
                                 int64_t layer, const AttentionRule& rule);

}  // namespace rollcall::model
