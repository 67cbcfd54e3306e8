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

  // Hugging Face names in canonical order: model.embed_tokens.weight; per layer input_layernorm,
  // self_attn.q_proj, k_proj, v_proj, o_proj, post_attention_layernorm, mlp.gate_proj, up_proj,
  // down_proj; model.norm.weight; lm_head.weight unless tied. Contiguous leaf tensors; write to
  // them in place under at::NoGradGuard.
  const std::vector<tensor::NamedTensor>& parameters() const;

  // Embedding and head N(0, 0.02), matrices N(0, 1 / sqrt(fan_in)), half of that for o_proj and
  // down_proj, norms 1. Drawn as float32 from PhiloxStream(seed, index of the parameter), then
  // rounded to the compute dtype.
  void InitializeRandom(uint64_t seed);

  // Gradients arrive in parameters()[i].tensor.grad(), always float32: that of a bfloat16 parameter
  // is not rounded, so micro-batches add up in float32.
  void SetRequiresGrad(bool requires_grad);
  void ZeroGrad();

  // Kernels read packed copies of the matrices. While parameters require gradients they are packed
  // at every forward; otherwise when a parameter's version counter moved (copy_, add_… move it).
  // Call this after writing in a way that moves no counter: raw data pointers, _fused_adamw_,
  // _foreach_*. SetRequiresGrad does it too.
  void InvalidatePacked();

  // token_ids: [tokens], int64, in [0, vocab); positions: [tokens], int64, >= 0; both on the CPU or
  // the device. Returns the hidden states after the final norm: [tokens, hidden], compute dtype.
  // Differentiable under PackedAttention when parameters require gradients and grad mode is on.
  at::Tensor Forward(const at::Tensor& token_ids, const at::Tensor& positions,
                     AttentionContext& attention);

  // hidden: [n, hidden] -> [n, vocab], float32, for sampling; not differentiable.
  at::Tensor Logits(const at::Tensor& hidden);

  // The output matrix [vocab, hidden]: lm_head, or the embedding where they are tied. For
  // ScoreTokens.
  Matrix& head();

  const ModelConfig& config() const;
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
