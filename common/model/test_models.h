#pragma once

// Small random models and batches for this folder's tests.

#include <ATen/core/TensorBody.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "common/model/decoder.h"

namespace rollcall::model::testing {

// Sizes that fill no vector and no panel: head_dim 24 and 20, vocabulary 77, grouped heads.
ModelConfig SmallConfig(int64_t num_heads = 6, int64_t num_kv_heads = 2, int64_t head_dim = 24);

// Random weights, norms disturbed, large enough that logits are far from uniform.
Decoder RandomDecoder(const ModelConfig& config, at::ScalarType dtype, uint64_t seed,
                      Backend backend = Backend::kKernels);

at::Tensor RandomTokens(int64_t count, int64_t vocab, PhiloxStream& random);
at::Tensor RandomNormal(at::IntArrayRef shape, PhiloxStream& random);

// Largest absolute difference of two tensors in float64.
double MaxDifference(const at::Tensor& a, const at::Tensor& b);
// Largest absolute difference over the largest magnitude of b.
double RelativeDifference(const at::Tensor& a, const at::Tensor& b);

// The bytes of two tensors, shape and dtype included.
::testing::AssertionResult SameBits(const at::Tensor& a, const at::Tensor& b);

// Sets the number of LibTorch threads for a scope.
class ThreadCount {
 public:
  explicit ThreadCount(int threads);
  ~ThreadCount();

 private:
  int before_;
};

}  // namespace rollcall::model::testing
