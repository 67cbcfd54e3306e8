#include "services/learner/trainer/model_update.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <vector>

#include "common/base/status.h"
#include "services/learner/trainer/gradient_norm.h"

namespace rollcall::learner {

absl::StatusOr<ModelUpdate> UpdateModel(model::Decoder& decoder, ShardedOptimizer& optimizer,
                                        double loss, double lr, double max_grad_norm) {
  const at::NoGradGuard no_grad;
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> gradients, optimizer.SummedGradients());
  at::Tensor sums = at::tensor(std::vector<double>{loss, SumOfSquares(gradients)});
  ROLLCALL_RETURN_IF_ERROR(optimizer.group().AllReduceSum(sums));
  const double* of_all = sums.const_data_ptr<double>();
  ModelUpdate update{.loss = of_all[0], .grad_norm = std::sqrt(of_all[1])};
  update.taken = std::isfinite(update.loss) && std::isfinite(update.grad_norm);
  if (update.taken) {
    ClipToNorm(gradients, update.grad_norm, max_grad_norm);
    ROLLCALL_RETURN_IF_ERROR(optimizer.Update(gradients, lr));
    decoder.InvalidatePacked();
  }
  decoder.ZeroGrad();
  return update;
}

}  // namespace rollcall::learner
