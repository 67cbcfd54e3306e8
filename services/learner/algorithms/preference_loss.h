#pragma once

#include <ATen/core/TensorBody.h>

namespace rollcall::learner {

// Losses of preferences that no reference's pairs are behind. Tensors are one float dtype, on one
// device; the gradient flows into the policy's log-probs alone.

// SimPO, arXiv 2405.14734, equation 6, with a label that is wrong with probability ε as in cDPO:
//
//   x = β (chosen - rejected) - target_margin
//   -(1-ε) log σ(x) - ε log σ(-x)
//
// chosen, rejected: [pairs], nats; SimPO's are means over a completion's tokens. With sums and
// target_margin 0 it is the preference term of CPO (arXiv 2401.08417, section 3), whose other term
// is the chosen completion's likelihood. Returns [pairs].
at::Tensor SimpoLoss(double beta, double target_margin, double label_smoothing,
                     const at::Tensor& chosen, const at::Tensor& rejected);

// ln(odds of chosen / odds of rejected), odds = p / (1 - p) with p the geometric mean of the tokens'
// probabilities: ORPO, arXiv 2403.07691, equations 4 and 5.
//
// chosen, rejected: [pairs], nats, means over a completion's tokens. A completion that is certain
// (p rounds to 1) counts as p = 1 - 1e-7 and gets no gradient. Returns [pairs].
at::Tensor LogOddsRatio(const at::Tensor& chosen, const at::Tensor& rejected);

// -log σ(LogOddsRatio): ORPO, equation 7. The stage adds it, times β, to the chosen completions'
// likelihood (equation 6). Returns [pairs].
at::Tensor OddsRatioLoss(const at::Tensor& chosen, const at::Tensor& rejected);

struct LabelledOptions {
  double beta = 0.1;
  double desirable_weight = 1;
  double undesirable_weight = 1;
};

// KTO, arXiv 2402.01306, equation 8, and with kl 0 APO-zero without pairs (arXiv 2408.06266; TRL's
// apo_zero_unpaired):
//
//   desirable    desirable_weight   (1 - σ(β (log_ratio - kl)))
//   undesirable  undesirable_weight (1 - σ(β (kl - log_ratio)))
//
// log_ratio: [sequences], nats: policy less reference, summed over the completion's tokens.
// desirable: [sequences], 1 or 0. Returns [sequences].
at::Tensor LabelledLoss(const LabelledOptions& options, const at::Tensor& log_ratio,
                        const at::Tensor& desirable, double kl);

// KTO's estimate of the KL to the reference, z_0 in section 4.1: max(0, mean of the log-ratios of
// mismatched completions). `log_ratio_sum` (nats) is over `count` of them.
double KlBaseline(double log_ratio_sum, double count);

}  // namespace rollcall::learner
