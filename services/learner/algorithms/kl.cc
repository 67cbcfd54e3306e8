#include "services/learner/algorithms/kl.h"

#include <ATen/core/Tensor.h>

namespace rollcall::learner {

at::Tensor EstimateKl(v1::KlEstimator estimator, const at::Tensor& logprobs,
                      const at::Tensor& reference_logprobs) {
  const at::Tensor difference = logprobs.sub(reference_logprobs.detach());
  switch (estimator) {
    case v1::KL_ESTIMATOR_K1:
      return difference;
    case v1::KL_ESTIMATOR_K2:
      return difference.square().mul(0.5);
    default:
      // expm1 keeps the digits that exp(-d) - 1 loses where the policies are close.
      return difference.neg().expm1().add(difference);
  }
}

}  // namespace rollcall::learner
