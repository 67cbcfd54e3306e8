#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <span>

// Advantages token by token. Completions are laid end to end, masked positions (a tool's output,
// an environment's turn) included:
//
// rewards, values: [positions], float32 or float64, on the CPU
// mask:            [positions], same dtype; 1 where the policy chose the token, else 0
// lengths:         positions of each completion, in order; they add up to [positions]
//
// Results are [positions] of the rewards' dtype and mean something only where mask is 1. Sums run
// in float64. Pure and thread-safe.
namespace rollcall::learner {

struct GaeOptions {
  double gamma = 1.0;
  double lambda = 0.95;
  // What a masked position does: true passes the next value and the running advantage over it as if
  // it were not there (verl); false gives it value and reward 0 and goes on discounting (OpenRLHF).
  bool carry_over_masked = true;
};

struct GaeEstimate {
  at::Tensor advantages;
  // What the critic is trained towards: advantages + values.
  at::Tensor returns;
};

// Generalised advantage estimation, arXiv 1506.02438, equation 16:
//
//   delta_t = r_t + gamma * V_{t+1} - V_t,   A_t = delta_t + gamma * lambda * A_{t+1}
//
// with V = A = 0 after the last position of a completion.
GaeEstimate GeneralizedAdvantages(const at::Tensor& rewards, const at::Tensor& values,
                                  const at::Tensor& mask, std::span<const int64_t> lengths,
                                  const GaeOptions& options);

// What follows a masked position, seen from the tokens before it.
enum class GapRule {
  kDropMaskedRewards,  // its own reward counts 0, later ones are discounted for it: OpenRLHF
  kCarryOver,          // as if it were not there: no reward, no discount: verl
};

// Discounted sum of the rewards from each position on: G_t = r_t + gamma * G_{t+1}. REINFORCE++,
// arXiv 2501.03262, section 3.
at::Tensor RewardToGo(const at::Tensor& rewards, const at::Tensor& mask,
                      std::span<const int64_t> lengths, double gamma, GapRule gaps);

struct WhitenOptions {
  // Divide the variance by n - 1 (verl, TRL) instead of n (OpenRLHF).
  bool unbiased = true;
  // Added to the variance (verl) ...
  double added = 1e-8;
  // ... or its least value (OpenRLHF).
  double least = 0;
  // Added to the number of tokens in both moments: verl 1e-8, which shows where the mean is far
  // larger than the deviation.
  double added_count = 0;
  // The mean is put back afterwards: only the scale changes (rewards, verl and TRL).
  bool keep_mean = false;
};

// (x - mean) / sqrt(variance), moments over the unmasked positions of all completions. Fewer than
// two unmasked positions: 0, or with keep_mean the values as they are.
at::Tensor Whiten(const at::Tensor& values, const at::Tensor& mask,
                  const WhitenOptions& options = {});

}  // namespace rollcall::learner
