#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "services/learner/algorithms/objective.h"

namespace rollcall::learner {

// What an objective needs of the tokens in the loss; every tensor is [tokens], float32 (float64 in
// tests) unless said.
struct TokenInputs {
  // Nats, under the weights being trained; carries the gradient.
  at::Tensor logprobs;
  // Nats, under the policy that the ratio is taken to: the rollout's own log-probs, or those of the
  // weights before the first update where the objective corrects behaviour.
  at::Tensor old_logprobs;
  // Nats, under the frozen reference; undefined where the loss has no KL term.
  at::Tensor reference_logprobs;
  // That of the token.
  at::Tensor advantages;
  // Nats, as sampled; undefined where the objective corrects no behaviour.
  at::Tensor behavior_logprobs;
  // Nats, with gradient; undefined without an entropy bonus.
  at::Tensor entropy;
  // int64: place of the token's sequence, below `sequences`.
  at::Tensor sequence_of;
  int64_t sequences = 0;
};

// Per-token loss and its parts, [tokens]. Only `total` carries a gradient that is meant to be used.
struct TokenLoss {
  at::Tensor total;
  // Undefined for supervised data.
  PolicyLoss policy;
  // Undefined without a KL term; nats, not yet weighted by kl_coefficient.
  at::Tensor kl;
};

// behaviour weight * policy loss + kl_coefficient * KL - entropy_coefficient * entropy
// (DeepSeekMath, arXiv 2402.03300, equation 3, per token and negated).
TokenLoss ObjectiveLoss(const Objective& objective, const TokenInputs& inputs);

// Cross-entropy: -logprobs.
TokenLoss SupervisedLoss(const at::Tensor& logprobs);

}  // namespace rollcall::learner
