#pragma once

#include "rollcall/v1/config.pb.h"

namespace at {
class Tensor;
}

namespace rollcall::learner {

// Per-token estimate of KL(pi || pi_ref) from tokens sampled by pi, in nats. With d = logprobs -
// reference_logprobs:
//
//   k1 = d                      unbiased, signed; as a loss its expected gradient is zero
//   k2 = d^2 / 2                biased, its gradient is that of the KL
//   k3 = exp(-d) - 1 + d        unbiased, never negative (DeepSeekMath, arXiv 2402.03300, eq. 4)
//
// (J. Schulman, "Approximating KL divergence", 2020.) Nothing is clamped, as in TRL; verl and
// OpenRLHF bound k3 to [-10, 10]. A d far below zero overflows k3 to infinity, which the trainer's
// non-finite guard turns into a skipped step.
//
// logprobs, reference_logprobs: [tokens], one float dtype; the gradient flows into logprobs only.
at::Tensor EstimateKl(v1::KlEstimator estimator, const at::Tensor& logprobs,
                      const at::Tensor& reference_logprobs);

}  // namespace rollcall::learner
