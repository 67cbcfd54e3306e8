#include "services/learner/algorithms/policy_loss.h"

#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace rollcall::learner {
namespace {

void MarkClipped(PolicyLoss& result, const at::Tensor& advantage, const ClipRange& clip) {
  result.clipped_low = advantage.lt(0).logical_and(result.ratio.lt(1.0 - clip.low));
  result.clipped_high = advantage.gt(0).logical_and(result.ratio.gt(1.0 + clip.high));
}

}  // namespace

PolicyLoss ClippedSurrogate(const at::Tensor& log_ratio, const at::Tensor& advantages,
                            const ClipRange& clip, const SurrogateBounds& bounds) {
  const at::Tensor advantage = advantages.detach();
  const at::Tensor ratio = log_ratio.exp();
  const at::Tensor seen = bounds.ratio_cap > 0 ? ratio.clamp_max(bounds.ratio_cap) : ratio;
  const at::Tensor unclipped = advantage.neg().mul(seen);
  const at::Tensor clipped = advantage.neg().mul(ratio.clamp(1.0 - clip.low, 1.0 + clip.high));
  PolicyLoss result;
  // Not at::maximum: it shares the gradient between equal branches, and inside the bounds both are
  // this one.
  result.loss = at::where(clipped.gt(unclipped), clipped, unclipped);
  if (bounds.dual_clip > 0) {
    const at::Tensor most = advantage.neg().mul(bounds.dual_clip);
    result.loss = at::where(advantage.lt(0).logical_and(result.loss.gt(most)), most, result.loss);
  }
  result.ratio = ratio.detach();
  MarkClipped(result, advantage, clip);
  return result;
}

PolicyLoss ClippedPolicyLoss(const at::Tensor& logprobs, const at::Tensor& old_logprobs,
                             const at::Tensor& advantages, const ClipRange& clip) {
  return ClippedSurrogate(logprobs.sub(old_logprobs.detach()), advantages, clip);
}

PolicyLoss CispoLoss(const at::Tensor& logprobs, const at::Tensor& log_ratio,
                     const at::Tensor& advantages, const ClipRange& clip) {
  const at::Tensor advantage = advantages.detach();
  PolicyLoss result;
  result.ratio = log_ratio.detach().exp();
  const at::Tensor weight = result.ratio.clamp(1.0 - clip.low, 1.0 + clip.high);
  result.loss = weight.mul(advantage).neg().mul(logprobs);
  MarkClipped(result, advantage, clip);
  return result;
}

PolicyLoss ReinforceLoss(const at::Tensor& logprobs, const at::Tensor& log_ratio,
                         const at::Tensor& advantages) {
  PolicyLoss result;
  result.ratio = log_ratio.detach().exp();
  result.loss = advantages.detach().neg().mul(logprobs);
  result.clipped_low = at::zeros(result.ratio.sizes(), at::kBool).to(result.ratio.device());
  result.clipped_high = result.clipped_low;
  return result;
}

at::Tensor LogRatioAtLevel(v1::RatioLevel level, const at::Tensor& log_ratio,
                           const at::Tensor& sequence_of, int64_t sequences) {
  if (level == v1::RATIO_LEVEL_TOKEN) return log_ratio;
  const at::Tensor zeros = at::zeros({sequences}, log_ratio.options());
  at::Tensor of_sequence = zeros.index_add(0, sequence_of, log_ratio);
  const bool own_gradient = level == v1::RATIO_LEVEL_SEQUENCE_MEAN_TOKEN;
  if (own_gradient || level == v1::RATIO_LEVEL_SEQUENCE_MEAN) {
    const at::Tensor counts =
        zeros.index_add(0, sequence_of, at::ones_like(log_ratio.detach())).clamp_min(1);
    of_sequence = of_sequence.div(counts);
  }
  const at::Tensor result = of_sequence.index_select(0, sequence_of);
  return own_gradient ? result.detach().add(log_ratio.sub(log_ratio.detach())) : result;
}

PolicyLoss ComputePolicyLoss(const PolicyLossOptions& options, const at::Tensor& logprobs,
                             const at::Tensor& old_logprobs, const at::Tensor& advantages,
                             const at::Tensor& sequence_of, int64_t sequences) {
  at::Tensor log_ratio = LogRatioAtLevel(options.ratio_level, logprobs.sub(old_logprobs.detach()),
                                         sequence_of, sequences);
  if (options.max_log_ratio > 0) {
    log_ratio = log_ratio.clamp(-options.max_log_ratio, options.max_log_ratio);
  }
  switch (options.type) {
    case v1::POLICY_LOSS_TYPE_CISPO:
      return CispoLoss(logprobs, log_ratio, advantages, options.clip);
    case v1::POLICY_LOSS_TYPE_REINFORCE:
      return ReinforceLoss(logprobs, log_ratio, advantages);
    default:
      return ClippedSurrogate(log_ratio, advantages, options.clip, options.bounds);
  }
}

}  // namespace rollcall::learner
