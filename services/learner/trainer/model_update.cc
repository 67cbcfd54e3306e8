#include "services/learner/trainer/model_update.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "common/base/status.h"
#include "services/learner/trainer/gradient_norm.h"

namespace rollcall::learner {
namespace {

std::vector<at::Tensor> GradientsOf(const model::Decoder& decoder) {
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : decoder.trainable_parameters()) {
    at::Tensor gradient = parameter.tensor.grad();
    gradients.push_back(gradient.defined() ? gradient
                                           : at::zeros_like(parameter.tensor.detach(), at::kFloat));
  }
  return gradients;
}

}  // namespace

absl::StatusOr<ModelUpdate> UpdateModel(model::Decoder& decoder, AdamW& optimizer,
                                        ProcessGroup& group, double loss, double lr,
                                        double max_grad_norm) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients = GradientsOf(decoder);
  for (at::Tensor& gradient : gradients) {
    ROLLCALL_RETURN_IF_ERROR(group.AllReduceSum(gradient));
  }
  at::Tensor summed_loss = at::tensor(std::vector<double>{loss});
  ROLLCALL_RETURN_IF_ERROR(group.AllReduceSum(summed_loss));
  ModelUpdate update{.loss = summed_loss.item<double>(), .grad_norm = GlobalNorm(gradients)};
  update.taken = std::isfinite(update.loss) && std::isfinite(update.grad_norm);
  if (update.taken) {
    ClipToNorm(gradients, update.grad_norm, max_grad_norm);
    optimizer.Update(gradients, lr);
    decoder.InvalidatePacked();
  }
  decoder.ZeroGrad();
  return update;
}

}  // namespace rollcall::learner
