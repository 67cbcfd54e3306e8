#pragma once

#include <ATen/core/Tensor.h>

#include "services/learner/algorithms/objective.h"

namespace rollcall::learner {

// What an objective needs of the tokens in the loss; every tensor is [tokens], float32 (float64 in
// tests).
struct TokenInputs {
  // Nats, under the weights being trained; carries the gradient.
  at::Tensor logprobs;
  // Nats, under the policy that the ratio is taken to: the rollout's own log-probs.
  at::Tensor old_logprobs;
  // Nats, under the frozen reference; undefined where the objective has no KL term.
  at::Tensor reference_logprobs;
  // That of the token's sequence.
  at::Tensor advantages;
};

// Per-token loss and its parts, [tokens]. Only `total` carries a gradient that is meant to be used.
struct TokenLoss {
  at::Tensor total;
  // Undefined for supervised data.
  PolicyLoss policy;
  // Undefined without a KL term; nats, not yet weighted by kl_coefficient.
  at::Tensor kl;
};

// policy loss + kl_coefficient * KL (DeepSeekMath, arXiv 2402.03300, equation 3, per token and
// negated).
TokenLoss ObjectiveLoss(const Objective& objective, const TokenInputs& inputs);

// Cross-entropy: -logprobs.
TokenLoss SupervisedLoss(const at::Tensor& logprobs);

}  // namespace rollcall::learner
