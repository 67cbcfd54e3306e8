#pragma once

#include <ATen/core/TensorBody.h>

namespace rollcall::learner {

// Per-token quantities of a critic's loss; every tensor is [tokens].
struct ValueLoss {
  // To be minimised; carries the gradient.
  at::Tensor loss;
  // bool: the clipped branch is the larger one.
  at::Tensor clipped;
};

// 0.5 * max((V - R)^2, (clip(V, V_old - range, V_old + range) - R)^2): PPO's released code; verl
// and OpenRLHF compute the same. range 0: not clipped.
//
// values, old_values, returns: [tokens], one float dtype; the gradient flows into values only.
ValueLoss ClippedValueLoss(const at::Tensor& values, const at::Tensor& old_values,
                           const at::Tensor& returns, double range);

}  // namespace rollcall::learner
