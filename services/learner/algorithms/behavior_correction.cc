#include "services/learner/algorithms/behavior_correction.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "services/learner/algorithms/policy_loss.h"

namespace rollcall::learner {
namespace {

at::Tensor Within(const at::Tensor& weight, const BehaviorCorrectionOptions& options) {
  return weight.ge(options.min).logical_and(weight.le(options.max));
}

}  // namespace

at::Tensor BehaviorWeights(const BehaviorCorrectionOptions& options,
                           const at::Tensor& proximal_logprobs, const at::Tensor& behavior_logprobs,
                           const at::Tensor& sequence_of, int64_t sequences) {
  const at::Tensor log_weight = proximal_logprobs.detach().sub(behavior_logprobs.detach());
  const auto weight_at = [&](v1::RatioLevel level) {
    at::Tensor at_level = LogRatioAtLevel(level, log_weight, sequence_of, sequences);
    if (options.max_log_weight > 0) {
      at_level = at_level.clamp(-options.max_log_weight, options.max_log_weight);
    }
    return at_level.exp();
  };
  const auto masked = [&](const at::Tensor& weight, const at::Tensor& judged) {
    return at::where(Within(judged, options), weight, at::zeros_like(weight));
  };
  switch (options.mode) {
    case v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE:
      return weight_at(v1::RATIO_LEVEL_TOKEN).clamp(options.min, options.max);
    case v1::BEHAVIOR_CORRECTION_TOKEN_MASK: {
      const at::Tensor weight = weight_at(v1::RATIO_LEVEL_TOKEN);
      return masked(weight, weight);
    }
    case v1::BEHAVIOR_CORRECTION_SEQUENCE_TRUNCATE:
      return weight_at(v1::RATIO_LEVEL_SEQUENCE_SUM).clamp(options.min, options.max);
    case v1::BEHAVIOR_CORRECTION_SEQUENCE_MASK: {
      const at::Tensor weight = weight_at(v1::RATIO_LEVEL_SEQUENCE_SUM);
      return masked(weight, weight);
    }
    case v1::BEHAVIOR_CORRECTION_SEQUENCE_MEAN_MASK:
      return masked(weight_at(v1::RATIO_LEVEL_TOKEN), weight_at(v1::RATIO_LEVEL_SEQUENCE_MEAN));
    default:
      return at::ones_like(log_weight);
  }
}

}  // namespace rollcall::learner
