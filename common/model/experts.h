#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <vector>

#include "common/model/backend.h"
#include "common/model/operators.h"

namespace rollcall::model {

struct Expert {
  Matrix gate, up, down;
};

struct MixtureOptions {
  int64_t experts_per_token;
  bool normalize;  // a token's weights sum to one
  kernels::Activation activation;
};

// A mixture of experts: for each row of x: [tokens, hidden] the router's logits (float32) choose
// experts_per_token experts, of equal logits those of lower index, and the result is the weighted
// sum of down(activation(gate(x)) * up(x)) over them, in ascending order of the expert
// (kernels::RouteArgs, kernels::CombineArgs).
//
// An expert's product runs over the rows that chose it, in token order; every row of it is a chain
// of its own, so that which other tokens chose the expert changes no bit. Differentiable with
// respect to x, the router and the experts; an expert that no row chose has a gradient of zeros.
at::Tensor MixtureOfExperts(Backend backend, const at::Tensor& x, Matrix& router,
                            std::vector<Expert>& experts, const MixtureOptions& options);

}  // namespace rollcall::model
