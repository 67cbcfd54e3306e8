#include "services/learner/algorithms/policy_loss.h"

#include <ATen/ops/where.h>

namespace rollcall::learner {

PolicyLoss ClippedPolicyLoss(const at::Tensor& logprobs, const at::Tensor& old_logprobs,
                             const at::Tensor& advantages, const ClipRange& clip) {
  const at::Tensor advantage = advantages.detach();
  const at::Tensor ratio = logprobs.sub(old_logprobs.detach()).exp();
  const at::Tensor unclipped = advantage.neg().mul(ratio);
  const at::Tensor clipped = advantage.neg().mul(ratio.clamp(1.0 - clip.low, 1.0 + clip.high));
  PolicyLoss result;
  // Not at::maximum: it shares the gradient between equal branches, and inside the bounds both are
  // this one.
  result.loss = at::where(clipped.gt(unclipped), clipped, unclipped);
  result.ratio = ratio.detach();
  result.clipped_low = advantage.lt(0).logical_and(result.ratio.lt(1.0 - clip.low));
  result.clipped_high = advantage.gt(0).logical_and(result.ratio.gt(1.0 + clip.high));
  return result;
}

}  // namespace rollcall::learner
