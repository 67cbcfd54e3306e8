#pragma once

#include <ATen/core/Tensor.h>

namespace rollcall::learner {

// The ratio pi / pi_old is clipped to [1 - low, 1 + high].
struct ClipRange {
  double low = 0.2;
  double high = 0.2;
};

// Per-token quantities of a policy loss; every tensor is [tokens].
struct PolicyLoss {
  // To be minimised; carries the gradient.
  at::Tensor loss;
  // exp(logprobs - old_logprobs), detached.
  at::Tensor ratio;
  // bool: the lower bound stopped this token's gradient (advantage < 0 and ratio < 1 - low).
  at::Tensor clipped_low;
  // bool: the upper bound did (advantage > 0 and ratio > 1 + high).
  at::Tensor clipped_high;
};

// Clipped surrogate: PPO, arXiv 1707.06347, equation 7, per token and negated; with high > low it
// is DAPO's clip-higher, arXiv 2503.14476, equation 10.
//
//   loss = max(-A * ratio, -A * clip(ratio, 1 - low, 1 + high))
//
// logprobs, old_logprobs, advantages: [tokens], one float dtype; the gradient flows into logprobs
// only. Where the two branches are equal (ratio within the bounds) the gradient is that of the
// unclipped one.
PolicyLoss ClippedPolicyLoss(const at::Tensor& logprobs, const at::Tensor& old_logprobs,
                             const at::Tensor& advantages, const ClipRange& clip);

}  // namespace rollcall::learner
