#pragma once

#include <ATen/core/TensorBody.h>

#include <vector>

namespace rollcall::learner {

enum class PairwiseLossType {
  kSigmoid,
  kIpo,
  kHinge,
  kRobust,
  kSigmoidNorm,
  kApoZero,
  kApoDown,
  kNcaPair,
  kBcoPair,
  kSppoHard,
  kDiscopop,
};

// Cells of a loss of pairs against a reference: online DPO and stage dpo.
struct PairwiseOptions {
  PairwiseLossType type = PairwiseLossType::kSigmoid;
  double beta = 0.1;
  // Probability that a pair's label is wrong, below 1/2; sigmoid and robust.
  double label_smoothing = 0;
  // ipo: log-ratios are divided by their completion's tokens.
  bool mean_log_prob = false;
  // Online DPO: a group's pair is its first two samples instead of its best and its worst.
  bool first_two = false;
};

// Log-probs of pairs' completions, each [pairs], one float dtype: nats, summed over the tokens.
struct PairLogprobs {
  at::Tensor chosen, rejected;  // under the policy; carry the gradient
  // Under the reference.
  at::Tensor reference_chosen, reference_rejected;
  // Number of tokens, at least 1; undefined where the loss takes no means.
  at::Tensor chosen_tokens = {}, rejected_tokens = {};
};

// How pairs of a preferred and another completion of one prompt teach a policy. With c and r the
// log-ratios to the reference of the chosen and the rejected completion, |y| their tokens, h = c - r
// and σ the logistic function:
//
//   sigmoid        -log σ(β h)                              DPO, arXiv 2305.18290, equation 7
//     with ε       -(1-ε) log σ(β h) - ε log σ(-β h)        cDPO, Mitchell 2023, equation 3
//   robust         (-(1-ε) log σ(β h) + ε log σ(-β h)) / (1-2ε)       rDPO, arXiv 2403.00409
//   hinge          max(0, 1 - β h)                          SLiC as in RSO, arXiv 2309.06657
//   ipo            (h - 1/(2β))²                            IPO, arXiv 2310.12036, equation 17
//     mean         (c/|y_c| - r/|y_r| - 1/(2β))²            the same with means, as TRL has it
//   sigmoid_norm   -log σ(β (c/|y_c| - r/|y_r|))            DPO with means, Tulu 3, arXiv 2411.15124
//   apo_zero       1 - σ(β c) + σ(β r)                      APO, arXiv 2408.06266, equation 7
//   apo_down       σ(β c) + 1 - σ(β h)                      APO, equation 8
//   nca_pair       -log σ(β c) - ½ log σ(-β c) - ½ log σ(-β r)        NCA, arXiv 2402.05369
//   bco_pair       -log σ(β c) - log σ(-β r)                BCO, arXiv 2404.04656, without its shift
//                                                           of rewards by their mean, as TRL 1.x
//   sppo_hard      (c - 1/(2β))² + (r + 1/(2β))²            SPPO, arXiv 2405.00675, equation 4.7 with
//                                                           a win probability of 1
//   discopop       (1-m) (-log σ(β h)) + m exp(-β h), m = σ(β h / 0.05)
//                                                           DiscoPOP, arXiv 2406.08414, equation 5
//
// Returns [pairs]; the gradient flows into chosen and rejected.
at::Tensor PairwiseLoss(const PairwiseOptions& options, const PairLogprobs& pairs);

// For each pair of rewards whether the first is preferred; a tie prefers the first, as in TRL.
std::vector<bool> FirstIsPreferred(const std::vector<double>& first,
                                   const std::vector<double>& second);

}  // namespace rollcall::learner
