#include "common/model/operators.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "common/model/aten_operators.h"
#include "common/model/attention_context.h"
#include "common/model/kernel_calls.h"

namespace rollcall::model {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

bool NeedsGraph(std::initializer_list<at::Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& input : inputs) {
    if (input.requires_grad()) return true;
  }
  return false;
}

struct EmbedFunction : Function<EmbedFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& table, const at::Tensor& ids) {
    ctx->save_for_backward({ids});
    ctx->saved_data["vocab"] = table.size(0);
    return EmbedForward(table, ids);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const at::Tensor ids = ctx->get_saved_variables()[0];
    return {EmbedBackward(dy[0].contiguous(), ids, ctx->saved_data["vocab"].toInt()), {}};
  }
};

struct LinearFunction : Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& panels) {
    ctx->save_for_backward({x, weight});
    return LinearForward(x, panels, weight.size(0), x.scalar_type());
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx, dw;
    if (ctx->needs_input_grad(0)) dx = LinearDx(dy, saved[1]);
    if (ctx->needs_input_grad(1)) {
      dw = at::empty(saved[1].sizes(), saved[1].options().dtype(at::kFloat));
      LinearDw(dy, saved[0], dw, /*accumulate=*/false);
    }
    return {dx, dw, {}};
  }
};

struct RmsNormFunction : Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double epsilon) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["epsilon"] = epsilon;
    return RmsNormForward(x, weight, epsilon);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    auto [dx, dweight] = RmsNormBackward(dy[0].contiguous(), saved[0], saved[1],
                                         ctx->saved_data["epsilon"].toDouble());
    return {dx, dweight, {}};
  }
};

struct RotateFunction : Function<RotateFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& positions,
                            const at::Tensor& table) {
    ctx->save_for_backward({positions, table});
    return RotateForward(x, positions, table, /*inverse=*/false);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    return {RotateForward(dy[0].contiguous(), saved[0], saved[1], /*inverse=*/true), {}, {}};
  }
};

struct SwiGluFunction : Function<SwiGluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    return SwiGluForward(gate, up);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    auto [dgate, dup] = SwiGluBackward(dy[0].contiguous(), saved[0], saved[1]);
    return {dgate, dup};
  }
};

struct PackedAttentionFunction : Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::vector<int64_t>& cu_seqlens,
                            double scale) {
    ctx->save_for_backward({q, k, v});
    ctx->saved_data["cu_seqlens"] = cu_seqlens;
    ctx->saved_data["scale"] = scale;
    return PackedAttentionForward(q, k, v, cu_seqlens, scale);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dout) {
    const variable_list saved = ctx->get_saved_variables();
    QkvGradients gradients = PackedAttentionBackward(
        dout[0].contiguous(), saved[0], saved[1], saved[2],
        ctx->saved_data["cu_seqlens"].toIntVector(), ctx->saved_data["scale"].toDouble());
    return {gradients.dq, gradients.dk, gradients.dv, {}, {}};
  }
};

}  // namespace

const at::Tensor& Matrix::Panels() {
  const auto version = static_cast<int64_t>(weight_._version());
  if (weight_.requires_grad() || version != packed_version_) {
    PackInto(weight_, panels_);
    packed_version_ = version;
  }
  return panels_;
}

at::Tensor Embed(Backend backend, const at::Tensor& table, const at::Tensor& ids) {
  if (backend == Backend::kAten) return aten::Embed(table, ids);
  if (NeedsGraph({table})) return EmbedFunction::apply(table, ids);
  return EmbedForward(table, ids);
}

at::Tensor Linear(Backend backend, const at::Tensor& x, Matrix& matrix) {
  if (backend == Backend::kAten) return aten::Linear(x, matrix.weight());
  const at::Tensor& panels = matrix.Panels();
  if (NeedsGraph({x, matrix.weight()})) return LinearFunction::apply(x, matrix.weight(), panels);
  return LinearForward(x, panels, matrix.weight().size(0), x.scalar_type());
}

at::Tensor RmsNorm(Backend backend, const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  if (backend == Backend::kAten) return aten::RmsNorm(x, weight, epsilon);
  if (NeedsGraph({x, weight})) return RmsNormFunction::apply(x, weight, epsilon);
  return RmsNormForward(x, weight, epsilon);
}

at::Tensor Rotate(Backend backend, const at::Tensor& x, const at::Tensor& positions,
                  const at::Tensor& table) {
  if (backend == Backend::kAten) return aten::Rotate(x, positions, table);
  if (NeedsGraph({x})) return RotateFunction::apply(x, positions, table);
  return RotateForward(x, positions, table, /*inverse=*/false);
}

at::Tensor SwiGlu(Backend backend, const at::Tensor& gate, const at::Tensor& up) {
  if (backend == Backend::kAten) return aten::SwiGlu(gate, up);
  if (NeedsGraph({gate, up})) return SwiGluFunction::apply(gate, up);
  return SwiGluForward(gate, up);
}

at::Tensor AttendPacked(Backend backend, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v, const std::vector<int64_t>& cu_seqlens, double scale) {
  if (backend == Backend::kAten) return aten::AttendPacked(q, k, v, cu_seqlens, scale);
  if (NeedsGraph({q, k, v})) return PackedAttentionFunction::apply(q, k, v, cu_seqlens, scale);
  return PackedAttentionForward(q, k, v, cu_seqlens, scale);
}

at::Tensor AttendPaged(Backend backend, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, const std::vector<PagedSequence>& sequences,
                       const KvCache& cache, int64_t layer, double scale) {
  TORCH_CHECK(!NeedsGraph({q, k, v}), "a paged forward has no gradients: run it under NoGradGuard");
  if (backend == Backend::kAten) {
    return aten::AttendPaged(q, k, v, sequences, cache, layer, scale);
  }
  return PagedAttentionForward(q, k, v, sequences, cache, layer, scale);
}

}  // namespace rollcall::model
