#pragma once

#include <ATen/core/TensorBody.h>

#include <functional>

namespace rollcall::model {

// What a checkpointed region is asked for: its result, or, in the backward pass, the graph alone. Then
// whatever no gradient reads, as the result of its last products, may be left undefined.
enum class Wanted { kResult, kGraph };

// region(x, kResult), which keeps nothing but x for the backward pass and runs the region again there,
// with gradients and kGraph. The region must compute the same both times, and what it refers to must
// outlive the backward pass; parameters that it uses get their gradients as leaves do, so the backward
// pass must be one that accumulates into them (Tensor::backward). x must require gradients. Same bits
// as without.
at::Tensor Checkpoint(std::function<at::Tensor(const at::Tensor& x, Wanted wanted)> region,
                      const at::Tensor& x);

}  // namespace rollcall::model
