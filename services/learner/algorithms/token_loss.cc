#include "services/learner/algorithms/token_loss.h"

namespace rollcall::learner {

TokenLoss ObjectiveLoss(const Objective& objective, const TokenInputs& inputs) {
  TokenLoss loss;
  loss.policy = ComputePolicyLoss(objective.policy, inputs.logprobs, inputs.old_logprobs,
                                  inputs.advantages, inputs.sequence_of, inputs.sequences);
  if (objective.corrects_behavior()) {
    loss.policy.loss = loss.policy.loss.mul(
        BehaviorWeights(objective.correction, inputs.old_logprobs, inputs.behavior_logprobs,
                        inputs.sequence_of, inputs.sequences));
  }
  loss.total = loss.policy.loss;
  if (objective.kl_in_loss()) {
    loss.kl = EstimateKl(objective.kl, inputs.logprobs, inputs.reference_logprobs);
    loss.total = loss.total.add(loss.kl, objective.kl_coefficient);
  }
  if (objective.entropy_coefficient > 0) {
    loss.total = loss.total.sub(inputs.entropy, objective.entropy_coefficient);
  }
  return loss;
}

TokenLoss SupervisedLoss(const at::Tensor& logprobs) {
  TokenLoss loss;
  loss.total = logprobs.neg();
  return loss;
}

}  // namespace rollcall::learner
