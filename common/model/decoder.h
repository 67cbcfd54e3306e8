#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/attention_context.h"
#include "common/model/backend.h"
#include "common/model/lora_config.h"
#include "common/model/model_config.h"
#include "common/tensor/named_tensor.h"

namespace rollcall::model {

class Matrix;

// The one model implementation: generator, reference, reward model and learner all run this block.
// Not thread-safe: one thread owns a decoder. LibTorch's exceptions pass through; callers run
// inside TorchCall.
//
// In exact mode every row of Forward and Logits is a pure function of its sequence: the same bits
// for any batch, chunk sizes, thread count, cache or no cache, gradients or not.
class Decoder {
 public:
  // Parameters are allocated and left zero: fill them with InitializeRandom or
  // checkpoint::LoadParameters. dtype: kFloat or kBFloat16, of parameters and activations; sums are
  // float32 either way. The backend is kKernels on the CPU and kAten elsewhere. INVALID_ARGUMENT:
  // bad config or dtype.
  static absl::StatusOr<Decoder> Create(const ModelConfig& config, at::ScalarType dtype,
                                        const at::Device& device);
  static absl::StatusOr<Decoder> Create(const ModelConfig& config, at::ScalarType dtype,
                                        const at::Device& device, Backend backend);
  ~Decoder();
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;

  // The checkpoint's names in canonical order (ParametersOf). Contiguous leaf tensors; write to
  // them in place under at::NoGradGuard.
  const std::vector<tensor::NamedTensor>& parameters() const;

  // Embedding and heads N(0, 0.02), matrices N(0, 1 / sqrt(fan_in)), half of that for the output
  // and down projections, norms such that they multiply by 1, biases 0. Drawn as float32 from
  // PhiloxStream(seed, index of the parameter), then rounded to the compute dtype.
  void InitializeRandom(uint64_t seed);

  // A low-rank adapter of zeros (AdapterSet) in place of whatever adapter there was; forwards then
  // compute with it, unmerged. The statuses of ResolveLora.
  absl::Status AddAdapter(const LoraConfig& lora);
  // A random and B zero, as PEFT starts (AdapterSet::InitializeRandom).
  void InitializeAdapter(uint64_t seed);
  void RemoveAdapter();
  // Its settings, resolved; null: there is none.
  const LoraConfig* lora() const;
  // Its tensors in canonical order under PEFT's names; empty: there is none.
  const std::vector<tensor::NamedTensor>& adapter_parameters() const;
  // parameters() with the adapter added to them.
  std::vector<tensor::NamedTensor> MergedParameters() const;

  // What is trained: the adapter's tensors where there is one, else parameters().
  const std::vector<tensor::NamedTensor>& trainable_parameters() const;

  // Of the trainable parameters; the others then take no gradients. They arrive in
  // trainable_parameters()[i].tensor.grad(), always float32: that of a bfloat16 parameter is not
  // rounded, so micro-batches add up in float32.
  void SetRequiresGrad(bool requires_grad);
  void ZeroGrad();
  // Forwards with gradients keep the input alone of each layer but the last, and the backward pass,
  // Tensor::backward, runs the layer again: less memory, more time, the same bits. Off at first.
  void SetActivationCheckpointing(bool on);

  // Kernels read packed copies of the matrices, unless they require gradients. A copy is made when
  // there is none or the parameter's version counter moved (copy_, add_… move it). Call this after
  // writing in a way that moves no counter: raw data pointers, _fused_adamw_, _foreach_*.
  // SetRequiresGrad does it too; it also gives the copies' memory back.
  void InvalidatePacked();

  // token_ids: [tokens], int64, in [0, vocab); positions: [tokens], int64, >= 0; both on the CPU or
  // the device. Returns the hidden states after the final norm: [tokens, hidden], compute dtype.
  // Differentiable under PackedAttention when parameters require gradients and grad mode is on. A
  // position at or beyond the context of a rope that depends on it is refused (an exception).
  at::Tensor Forward(const at::Tensor& token_ids, const at::Tensor& positions,
                     AttentionContext& attention);

  // hidden: [n, hidden] -> [n, vocab], float32, for sampling; not differentiable. Throws where
  // config().RequireLanguageModel() fails.
  at::Tensor Logits(const at::Tensor& hidden);

  // hidden: [n, hidden] -> [n], float32, differentiable: what a reward or value model says at each
  // row. The reward of a sequence is the value at its last token. Throws for a language model.
  at::Tensor Values(const at::Tensor& hidden);

  // The output matrix [vocab, hidden]: lm_head, or the embedding where they are tied; undefined for
  // a reward or value model. For ScoreTokens.
  Matrix& head();

  const ModelConfig& config() const;
  // ModelConfig::SetContext for the forwards to come.
  void SetContext(int64_t tokens);
  at::ScalarType dtype() const;
  at::Device device() const;
  Backend backend() const;

  // For the numerics fingerprint: "cpu-fma", "cpu-portable", "cuda-aten"…, and the kernels'
  // revision (0 for kAten).
  std::string Arithmetic() const;
  uint32_t KernelRevision() const;

 private:
  struct State;
  explicit Decoder(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace rollcall::model
