#pragma once

#include <span>

namespace at {
class Tensor;
}

namespace rollcall::learner {

// Sum of the squares of all elements of all tensors: float64 partial sums over fixed ranges of
// elements, added in order, so the bits depend neither on the number of threads nor on the run.
// Infinite or NaN when an element is.
//
// gradients: float32, contiguous; tensors of other devices are copied to the CPU first.
double SumOfSquares(std::span<const at::Tensor> gradients);

// Euclidean norm: the square root of it.
double GlobalNorm(std::span<const at::Tensor> gradients);

// Scales all gradients in place so that their norm, given as `norm`, becomes at most `max_norm`, as
// torch.nn.utils.clip_grad_norm_ does: by max_norm / (norm + 1e-6) where that is below 1. max_norm
// 0: no clipping.
void ClipToNorm(std::span<const at::Tensor> gradients, double norm, double max_norm);

}  // namespace rollcall::learner
