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
                            const std::optional<at::Tensor>& bias, const at::Tensor& panels,
                            at::ScalarType type) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["has_bias"] = bias.has_value();
    return LinearForward(x, panels, weight.size(0), type, bias.value_or(at::Tensor()));
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dy = gradients[0].contiguous();
    at::Tensor dx, dw, dbias;
    if (ctx->needs_input_grad(0)) dx = LinearDx(dy, saved[1]);
    if (ctx->needs_input_grad(1)) {
      dw = at::empty(saved[1].sizes(), saved[1].options().dtype(at::kFloat));
      LinearDw(dy, saved[0], dw, /*accumulate=*/false);
    }
    if (ctx->saved_data["has_bias"].toBool()) dbias = LinearDbias(dy);
    return {dx, dw, dbias, {}, {}};
  }
};

struct RmsNormFunction : Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            double epsilon, bool unit_offset) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["epsilon"] = epsilon;
    ctx->saved_data["unit_offset"] = unit_offset;
    return RmsNormForward(x, weight, epsilon, unit_offset);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    auto [dx, dweight] = RmsNormBackward(dy[0].contiguous(), saved[0], saved[1],
                                         ctx->saved_data["epsilon"].toDouble(),
                                         ctx->saved_data["unit_offset"].toBool());
    return {dx, dweight, {}, {}};
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

struct GluFunction : Function<GluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up,
                            kernels::Activation activation) {
    ctx->save_for_backward({gate, up});
    ctx->saved_data["activation"] = static_cast<int64_t>(activation);
    return GluForward(activation, gate, up);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    const auto activation = static_cast<kernels::Activation>(ctx->saved_data["activation"].toInt());
    auto [dgate, dup] = GluBackward(activation, dy[0].contiguous(), saved[0], saved[1]);
    return {dgate, dup, {}};
  }
};

struct PackedAttentionFunction : Function<PackedAttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::vector<int64_t>& cu_seqlens,
                            const AttentionRule& rule) {
    ctx->save_for_backward({q, k, v});
    ctx->saved_data["cu_seqlens"] = cu_seqlens;
    ctx->saved_data["scale"] = rule.scale;
    ctx->saved_data["softcap"] = rule.softcap;
    ctx->saved_data["window"] = rule.window;
    return PackedAttentionForward(q, k, v, cu_seqlens, rule);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dout) {
    const variable_list saved = ctx->get_saved_variables();
    const AttentionRule rule{ctx->saved_data["scale"].toDouble(),
                             ctx->saved_data["softcap"].toDouble(),
                             ctx->saved_data["window"].toInt()};
    QkvGradients gradients =
        PackedAttentionBackward(dout[0].contiguous(), saved[0], saved[1], saved[2],
                                ctx->saved_data["cu_seqlens"].toIntVector(), rule);
    return {gradients.dq, gradients.dk, gradients.dv, {}, {}};
  }
};

at::Tensor LinearTo(Backend backend, const at::Tensor& x, Matrix& matrix, at::ScalarType type) {
  const at::Tensor& weight = matrix.weight();
  if (backend == Backend::kAten) return aten::Linear(x, weight, matrix.bias(), type);
  const at::Tensor& panels = matrix.Panels();
  if (!NeedsGraph({x, weight})) {
    return LinearForward(x, panels, weight.size(0), type, matrix.bias());
  }
  std::optional<at::Tensor> bias;
  if (matrix.bias().defined()) bias = matrix.bias();
  return LinearFunction::apply(x, weight, bias, panels, type);
}

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
  return LinearTo(backend, x, matrix, x.scalar_type());
}

at::Tensor LinearToFloat(Backend backend, const at::Tensor& x, Matrix& matrix) {
  return LinearTo(backend, x, matrix, at::kFloat);
}

at::Tensor RmsNorm(Backend backend, const at::Tensor& x, const at::Tensor& weight, double epsilon,
                   bool unit_offset) {
  if (backend == Backend::kAten) return aten::RmsNorm(x, weight, epsilon, unit_offset);
  if (NeedsGraph({x, weight})) return RmsNormFunction::apply(x, weight, epsilon, unit_offset);
  return RmsNormForward(x, weight, epsilon, unit_offset);
}

at::Tensor Rotate(Backend backend, const at::Tensor& x, const at::Tensor& positions,
                  const at::Tensor& table) {
  if (backend == Backend::kAten) return aten::Rotate(x, positions, table);
  if (NeedsGraph({x})) return RotateFunction::apply(x, positions, table);
  return RotateForward(x, positions, table, /*inverse=*/false);
}

at::Tensor Glu(Backend backend, kernels::Activation activation, const at::Tensor& gate,
               const at::Tensor& up) {
  if (backend == Backend::kAten) return aten::Glu(activation, gate, up);
  if (NeedsGraph({gate, up})) return GluFunction::apply(gate, up, activation);
  return GluForward(activation, gate, up);
}

at::Tensor AttendPacked(Backend backend, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v, const std::vector<int64_t>& cu_seqlens,
                        const AttentionRule& rule) {
  if (backend == Backend::kAten) return aten::AttendPacked(q, k, v, cu_seqlens, rule);
  if (NeedsGraph({q, k, v})) return PackedAttentionFunction::apply(q, k, v, cu_seqlens, rule);
  return PackedAttentionForward(q, k, v, cu_seqlens, rule);
}

at::Tensor AttendPaged(Backend backend, const at::Tensor& q, const at::Tensor& k,
                       const at::Tensor& v, const std::vector<PagedSequence>& sequences,
                       const KvCache& cache, int64_t layer, const AttentionRule& rule) {
  TORCH_CHECK(!NeedsGraph({q, k, v}), "a paged forward has no gradients: run it under NoGradGuard");
  if (backend == Backend::kAten) {
    return aten::AttendPaged(q, k, v, sequences, cache, layer, rule);
  }
  return PagedAttentionForward(q, k, v, sequences, cache, layer, rule);
}

}  // namespace rollcall::model
