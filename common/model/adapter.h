#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/lora_config.h"
#include "common/model/operators.h"
#include "common/tensor/named_tensor.h"

namespace rollcall::model {

// The low-rank adapter of one matrix W: [n, k]. A and B are float32 whatever the compute dtype, as
// in PEFT: they are small, and an update of a narrower dtype would be lost in rounding.
struct Adapter {
  Matrix down;  // A: [r, k]
  Matrix up;    // B: [n, r]
  float scale = 0;
};

// The adapters of a model's matrices, and, of a reward or value model, the head that is trained
// whole beside them.
class AdapterSet {
 public:
  // All zeros: the model computes what it does without. `lora` is as ResolveLora returned it;
  // `parameters` are the model's, in the order of ParametersOf.
  AdapterSet(const ModelConfig& config, const LoraConfig& lora,
             std::span<const tensor::NamedTensor> parameters);

  // A uniform in ±1 / sqrt(k), as PEFT has it (Kaiming's with a = sqrt(5)), B zero, drawn from
  // PhiloxStream(seed, kStream + index of the tensor).
  void InitializeRandom(uint64_t seed);

  const LoraConfig& lora() const { return lora_; }
  // In the order and under the names of AdapterParametersOf.
  const std::vector<tensor::NamedTensor>& parameters() const { return parameters_; }
  // Of the matrix that is ParametersOf(config)[index]; null: it has none.
  std::shared_ptr<Adapter> Of(size_t index) const;
  void InvalidatePacked();

  // The model's parameters with the adapters added to them: W + scale B A, a float32 sum rounded to
  // W's dtype. Those without an adapter are shared, not copied.
  std::vector<tensor::NamedTensor> Merged(std::span<const tensor::NamedTensor> parameters) const;

 private:
  // Apart from the streams that number the parameters of whole models.
  static constexpr uint64_t kStream = uint64_t{1} << 40;

  struct Place {
    AdapterParameter::Role role;
    size_t of;
  };

  const LoraConfig lora_;
  std::vector<tensor::NamedTensor> parameters_;
  std::vector<Place> places_;                       // of each of parameters_
  std::vector<std::shared_ptr<Adapter>> adapters_;  // by index into ParametersOf
};

// y_i = x W_i^T (+ bias_i) + scale_i (x A_i^T) B_i^T of the matrices that share one x, those without
// an adapter among them; y_i: [tokens, n_i] of dtype `type`. In float32 for each element of y: the
// product's chain over k (kernels::GemmArgs), the bias, and from there a chain over r of u B, where u
// is the scale times a chain over k of x A; rounded once.
//
// W and bias are constants: gradients go to x, A and B, and none is computed or kept for W.
std::vector<at::Tensor> AdaptedLinears(const at::Tensor& x, const std::vector<Matrix*>& matrices,
                                       at::ScalarType type);

}  // namespace rollcall::model
