#include "services/learner/algorithms/pairwise_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/log_sigmoid.h>

namespace rollcall::learner {

at::Tensor PairwiseLoss(PairwiseLossType type, double beta, const at::Tensor& chosen,
                        const at::Tensor& rejected, const at::Tensor& reference_chosen,
                        const at::Tensor& reference_rejected) {
  const at::Tensor margin =
      chosen.sub(reference_chosen.detach()).sub(rejected.sub(reference_rejected.detach()));
  if (type == PairwiseLossType::kIpo) return margin.sub(1 / (2 * beta)).square();
  return at::log_sigmoid(margin.mul(beta)).neg();
}

std::vector<bool> FirstIsPreferred(const std::vector<double>& first,
                                   const std::vector<double>& second) {
  std::vector<bool> preferred;
  for (size_t i = 0; i < first.size(); ++i) preferred.push_back(first[i] >= second[i]);
  return preferred;
}

}  // namespace rollcall::learner
