#include "services/learner/algorithms/kl.h"

#include <ATen/core/Tensor.h>

namespace rollcall::learner {

at::Tensor EstimateKl(v1::KlEstimator estimator, const at::Tensor& logprobs,
                      const at::Tensor& reference_logprobs) {
  return EstimateKl(KlOptions{.estimator = estimator}, logprobs, reference_logprobs);
}

at::Tensor EstimateKl(const KlOptions& options, const at::Tensor& logprobs,
                      const at::Tensor& reference_logprobs) {
  at::Tensor difference = logprobs.sub(reference_logprobs.detach());
  if (options.straight_through) {
    KlOptions plain = options;
    plain.straight_through = false;
    const at::Tensor value = EstimateKl(plain, logprobs.detach(), reference_logprobs);
    const at::Tensor carrier = difference.square().mul(0.5);
    return carrier.sub(carrier.detach()).add(value);
  }
  at::Tensor kl;
  switch (options.estimator) {
    case v1::KL_ESTIMATOR_K1:
      kl = difference;
      break;
    case v1::KL_ESTIMATOR_K2:
      kl = difference.square().mul(0.5);
      break;
    case v1::KL_ESTIMATOR_ABS:
      kl = difference.abs();
      break;
    default:
      if (options.max_exponent > 0) {
        difference = difference.clamp(-options.max_exponent, options.max_exponent);
      }
      // expm1 keeps the digits that exp(-d) - 1 loses where the policies are close.
      kl = difference.neg().expm1().add(difference);
  }
  return options.max_value > 0 ? kl.clamp(-options.max_value, options.max_value) : kl;
}

}  // namespace rollcall::learner
