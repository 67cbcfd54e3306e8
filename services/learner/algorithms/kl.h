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
//   abs = |d|                   a distance, for the reward only
//
// (J. Schulman, "Approximating KL divergence", 2020.) Nothing is clamped, as in TRL. A d far below
// zero overflows k3 to infinity, which the trainer's non-finite guard turns into a skipped step.
//
// logprobs, reference_logprobs: [tokens], one float dtype; the gradient flows into logprobs only.
at::Tensor EstimateKl(v1::KlEstimator estimator, const at::Tensor& logprobs,
                      const at::Tensor& reference_logprobs);

struct KlOptions {
  v1::KlEstimator estimator = v1::KL_ESTIMATOR_K3;
  // The value is the estimator's, the gradient that of k2, which is the KL's own: verl's "+" forms,
  // OpenRLHF's unbiased gradient, arXiv 2510.01555.
  bool straight_through = false;
  // |d| inside k3's exponential is at most this; 0: any. verl: 20.
  double max_exponent = 0;
  // |estimate| is at most this, which stops its gradient, too; 0: any. verl 10 for k3 only,
  // OpenRLHF 10 for each.
  double max_value = 0;
};

// EstimateKl within the bounds of `options`.
at::Tensor EstimateKl(const KlOptions& options, const at::Tensor& logprobs,
                      const at::Tensor& reference_logprobs);

}  // namespace rollcall::learner
