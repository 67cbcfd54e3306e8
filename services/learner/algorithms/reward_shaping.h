#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <span>

namespace rollcall::learner {

// The reward of each position: -coefficient * KL there, and the completion's score at its last
// unmasked position. PPO on language models, arXiv 2203.02155, equation 2, per token.
//
// scores: [completions]; kl, mask: [positions], as in token_advantage.h; one float dtype, on the
// CPU. A completion without an unmasked position keeps no score.
at::Tensor TokenRewards(const at::Tensor& scores, const at::Tensor& kl, const at::Tensor& mask,
                        std::span<const int64_t> lengths, double coefficient);

// Ziegler et al., arXiv 1909.08593, section 2.2: the KL coefficient that keeps the KL near `target`.
//
//   error = clip(kl / target - 1, -0.2, 0.2),   coefficient * (1 + error * sequences / horizon)
//
// kl: mean of the last batch, nats; sequences: how many it had; horizon: sequences.
double AdaptedKlCoefficient(double coefficient, double kl, double target, double horizon,
                            uint64_t sequences);

struct OverlongOptions {
  // Longest completion allowed.
  int64_t max_tokens = 0;
  // The last tokens before it, over which the punishment grows from 0 to `factor`; 0: none.
  int64_t buffer = 0;
  double factor = 1.0;
  // Beyond max_tokens: -factor (TRL with factor 1, OpenRLHF), or ever lower at the same slope
  // (verl).
  bool bounded = true;
};

// Soft overlong punishment, added to the reward: DAPO, arXiv 2503.14476, equation 13.
//
//   0 up to max_tokens - buffer, then factor * (max_tokens - buffer - length) / buffer
double OverlongPunishment(int64_t length, const OverlongOptions& options);

}  // namespace rollcall::learner
