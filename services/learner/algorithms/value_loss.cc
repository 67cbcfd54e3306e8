#include "services/learner/algorithms/value_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>

namespace rollcall::learner {

ValueLoss ClippedValueLoss(const at::Tensor& values, const at::Tensor& old_values,
                           const at::Tensor& returns, double range) {
  const at::Tensor old = old_values.detach(), target = returns.detach();
  const at::Tensor plain = values.sub(target).square();
  // Clamping V - V_old would round; clamping to tensors does not, and keeps V's gradient whole.
  const at::Tensor low = old.sub(range), high = old.add(range);
  const at::Tensor inside =
      at::where(values.lt(low), low, at::where(values.gt(high), high, values));
  const at::Tensor clipped = inside.sub(target).square();
  ValueLoss result;
  result.clipped = range > 0 ? clipped.gt(plain) : plain.lt(plain);
  result.loss = at::where(result.clipped, clipped, plain).mul(0.5);
  return result;
}

}  // namespace rollcall::learner
