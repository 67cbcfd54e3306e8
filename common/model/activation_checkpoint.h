#pragma once

#include <ATen/core/TensorBody.h>

#include <functional>

namespace rollcall::model {

// region(x), which keeps nothing but x for the backward pass and runs the region again there, with
// gradients. The region must compute the same both times, and what it refers to must outlive the
// backward pass; parameters that it uses get their gradients as leaves do, so the backward pass must
// be one that accumulates into them (Tensor::backward). x must require gradients. Same bits as
// without.
at::Tensor Checkpoint(std::function<at::Tensor(const at::Tensor& x)> region, const at::Tensor& x);

}  // namespace rollcall::model
