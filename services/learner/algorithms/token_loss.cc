#include "services/learner/algorithms/token_loss.h"

#include "services/learner/algorithms/kl.h"

namespace rollcall::learner {

TokenLoss ObjectiveLoss(const Objective& objective, const TokenInputs& inputs) {
  TokenLoss loss;
  loss.policy =
      ClippedPolicyLoss(inputs.logprobs, inputs.old_logprobs, inputs.advantages, objective.clip);
  loss.total = loss.policy.loss;
  if (objective.needs_reference()) {
    loss.kl = EstimateKl(objective.kl_estimator, inputs.logprobs, inputs.reference_logprobs);
    loss.total = loss.total.add(loss.kl, objective.kl_coefficient);
  }
  return loss;
}

TokenLoss SupervisedLoss(const at::Tensor& logprobs) {
  TokenLoss loss;
  loss.total = logprobs.neg();
  return loss;
}

}  // namespace rollcall::learner
