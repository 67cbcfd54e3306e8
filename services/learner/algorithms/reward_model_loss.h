#pragma once

namespace at {
class Tensor;
}

namespace rollcall::learner {

// How a reward model learns from pairs: Bradley and Terry, 1952, as in arXiv 2203.02155, equation 1,
// with the margin of Llama 2, arXiv 2307.09288, equation 2, and the centring of arXiv 2312.09244:
//
//   -log sigmoid(chosen - rejected - margin) + centering * (chosen + rejected)^2
//
// A reward model's zero is arbitrary; centring keeps the rewards of a pair around it. TRL 0.01 to
// switch it on, none by default; OpenRLHF has no such term.
//
// chosen, rejected, margin: [pairs], one float dtype; margin may be undefined: 0. Returns [pairs];
// the gradient flows into chosen and rejected.
at::Tensor RewardModelLoss(const at::Tensor& chosen, const at::Tensor& rejected,
                           const at::Tensor& margin, double centering);

}  // namespace rollcall::learner
