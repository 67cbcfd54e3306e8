#include "common/model/activation_checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace rollcall::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Region = std::function<at::Tensor(const at::Tensor& x, Wanted wanted)>;

struct HeldRegion : torch::CustomClassHolder {
  explicit HeldRegion(Region held) : run(std::move(held)) {}
  Region run;
};

struct CheckpointFunction : torch::autograd::Function<CheckpointFunction> {
  // LibTorch calls it with gradients off.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const c10::intrusive_ptr<HeldRegion>& region) {
    ctx->save_for_backward({x});
    ctx->saved_data["region"] = c10::IValue::make_capsule(region);
    return region->run(x, Wanted::kResult);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_(true);
    const auto region =
        c10::static_intrusive_pointer_cast<HeldRegion>(ctx->saved_data["region"].toCapsule());
    at::Tensor y;
    {
      const at::AutoGradMode gradients(true);
      y = region->run(x, Wanted::kGraph);
    }
    y.backward(dy[0]);
    return {x.grad(), {}};
  }
};

}  // namespace

at::Tensor Checkpoint(Region region, const at::Tensor& x) {
  return CheckpointFunction::apply(x, c10::make_intrusive<HeldRegion>(std::move(region)));
}

}  // namespace rollcall::model
