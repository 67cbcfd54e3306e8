#pragma once

#include <ATen/core/TensorBody.h>

#include <vector>

namespace rollcall::learner {

enum class PairwiseLossType { kSigmoid, kIpo };

// Online DPO's cells.
struct PairwiseOptions {
  PairwiseLossType type = PairwiseLossType::kSigmoid;
  double beta = 0.1;
  // A group's pair is its first two samples instead of its best and its worst.
  bool first_two = false;
};

// Online DPO, arXiv 2402.04792: two completions of a prompt, the better one by reward is preferred.
// With h = (chosen - reference of it) - (rejected - reference of it), log-probs summed over each
// completion:
//
//   sigmoid  -log sigmoid(beta * h)       DPO, arXiv 2305.18290, equation 7
//   ipo      (h - 1 / (2 * beta))^2       IPO, arXiv 2310.12036, equation 17, with sums
//
// chosen, rejected, …: [pairs], nats, one float dtype. Returns [pairs]; the gradient flows into
// chosen and rejected.
at::Tensor PairwiseLoss(PairwiseLossType type, double beta, const at::Tensor& chosen,
                        const at::Tensor& rejected, const at::Tensor& reference_chosen,
                        const at::Tensor& reference_rejected);

// For each pair of rewards whether the first is preferred; a tie prefers the first, as in TRL.
std::vector<bool> FirstIsPreferred(const std::vector<double>& first,
                                   const std::vector<double>& second);

}  // namespace rollcall::learner
