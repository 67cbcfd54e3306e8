#include "services/learner/algorithms/reward_model_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/log_sigmoid.h>

namespace rollcall::learner {

at::Tensor RewardModelLoss(const at::Tensor& chosen, const at::Tensor& rejected,
                           const at::Tensor& margin, double centering) {
  at::Tensor difference = chosen.sub(rejected);
  if (margin.defined()) difference = difference.sub(margin.detach());
  const at::Tensor loss = at::log_sigmoid(difference).neg();
  return centering > 0 ? loss.add(chosen.add(rejected).square(), centering) : loss;
}

}  // namespace rollcall::learner
