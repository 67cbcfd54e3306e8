#pragma once

// The decoder's operations on tensors. kKernels: our CPU kernels with their own backward. kAten:
// plain LibTorch operations with LibTorch's autograd. Sizes are checked by the decoder, not here.

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "common/model/attention_rule.h"
#include "common/model/backend.h"
#include "common/model/kernel_calls.h"
#include "common/model/kernels/arguments.h"
#include "common/model/kv_cache.h"

namespace rollcall::model {

struct Adapter;
struct PagedSequence;

// A weight matrix [n, k] with the packed copy that the kernels read, a bias [n] or none, and an
// adapter (adapter.h) or none.
class Matrix {
 public:
  Matrix() = default;
  explicit Matrix(at::Tensor weight) : weight_(std::move(weight)) {}

  bool defined() const { return weight_.defined(); }
  const at::Tensor& weight() const { return weight_; }
  const at::Tensor& bias() const { return bias_; }  // may be undefined
  void set_bias(at::Tensor bias) { bias_ = std::move(bias); }
  Adapter* adapter() const { return adapter_.get(); }
  void set_adapter(std::shared_ptr<Adapter> adapter) { adapter_ = std::move(adapter); }
  // While the weight requires gradients, the weight itself: it changes at every step, a training
  // forward has rows enough to pack it as it goes, and it is in memory once. Else its panels, packed
  // when the weight's version counter moved.
  Weights ForProducts();
  // False: the weight itself as well, for one that is constant in training.
  void set_packs(bool packs) { packs_ = packs; }
  void InvalidatePacked() { panels_ = at::Tensor(); }

 private:
  at::Tensor weight_, bias_;
  std::shared_ptr<Adapter> adapter_;
  bool packs_ = true;
  at::Tensor panels_;
  int64_t packed_version_ = -1;  // of the weight that panels_ holds
};

// table: [vocab, hidden], ids: [tokens] -> [tokens, hidden].
at::Tensor Embed(Backend backend, const at::Tensor& table, const at::Tensor& ids);

// x: [tokens, k] -> [tokens, n], x's dtype or float32.
at::Tensor Linear(Backend backend, const at::Tensor& x, Matrix& matrix);
// Linear whose result nobody reads, only its gradients: the values may be undefined.
at::Tensor LinearForGradients(Backend backend, const at::Tensor& x, Matrix& matrix);
// Several of one x, together.
std::vector<at::Tensor> Linears(Backend backend, const at::Tensor& x,
                                const std::vector<Matrix*>& matrices);
at::Tensor LinearToFloat(Backend backend, const at::Tensor& x, Matrix& matrix);

// x: [rows, width], weight: [width]; times weight or 1 + weight.
at::Tensor RmsNorm(Backend backend, const at::Tensor& x, const at::Tensor& weight, double epsilon,
                   bool unit_offset);

// x: [tokens, heads, head_dim]; positions: [tokens]; table: [positions, rotary_dim]
// (kernels::RotateArgs).
at::Tensor Rotate(Backend backend, const at::Tensor& x, const at::Tensor& positions,
                  const at::Tensor& table);

// activation(gate) * up.
at::Tensor Glu(Backend backend, kernels::Activation activation, const at::Tensor& gate,
               const at::Tensor& up);

// q: [tokens, heads, head_dim], k, v: [tokens, kv_heads, head_dim] -> q's shape.
at::Tensor AttendPacked(Backend backend, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v, const std::vector<int64_t>& cu_seqlens,
                        const AttentionRule& rule);

// Appends k and v to the layer's cache, then attends; no gradients.
at::Tensor AttendPaged(Backend backend, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, const std::vector<PagedSequence>& sequences,
                       const KvCache& cache, int64_t layer, const AttentionRule& rule);

}  // namespace rollcall::model
