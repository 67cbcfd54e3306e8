#include "common/model/operators.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "common/model/adapter.h"
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

// What a forward of products is asked for.
enum class Products { kValues, kGradientsOnly };

std::vector<at::Tensor> LinearsForward(const at::Tensor& x, const std::vector<Matrix*>& matrices,
                                       at::ScalarType type, Products products = Products::kValues) {
  std::vector<at::Tensor> results;
  std::vector<Weights> weights;
  std::vector<kernels::GemmArgs> calls;
  for (Matrix* matrix : matrices) {
    weights.push_back(matrix->ForProducts());
    at::Tensor& y = results.emplace_back(
        at::empty({x.size(0), matrix->weight().size(0)}, x.options().dtype(type)));
    calls.push_back(LinearArgs(x, weights.back(), matrix->bias(), y));
  }
  if (products == Products::kValues) ParallelGemms(calls);
  return results;
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

// y_i = x w_i^T (+ bias_i), of the matrices that share one x.
struct LinearsFunction : Function<LinearsFunction> {
  // tensors: the weights, then the biases of those that have one.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList tensors,
                               const std::vector<Matrix*>& matrices, at::ScalarType type,
                               Products products) {
    variable_list saved = {x};
    std::vector<int64_t> biased;
    for (const Matrix* matrix : matrices) {
      saved.push_back(matrix->weight());
      biased.push_back(matrix->bias().defined());
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["biased"] = biased;
    ctx->saved_data["inputs"] = static_cast<int64_t>(tensors.size());
    return LinearsForward(x, matrices, type, products);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const variable_list weights(saved.begin() + 1, saved.end());
    const std::vector<int64_t> biased = ctx->saved_data["biased"].toIntVector();
    std::vector<at::Tensor> dys;
    for (const at::Tensor& gradient : gradients) dys.push_back(gradient.contiguous());
    variable_list results(1);
    if (ctx->needs_input_grad(0)) results[0] = LinearsDx(dys, weights, saved[0].scalar_type());
    if (ctx->needs_input_grad(1)) {
      for (at::Tensor& dw : LinearsDw(dys, saved[0])) results.push_back(std::move(dw));
    } else {
      results.resize(1 + weights.size());
    }
    for (size_t i = 0; i < dys.size(); ++i) {
      if (biased[i] != 0) results.push_back(LinearDbias(dys[i]));
    }
    results.resize(1 + ctx->saved_data["inputs"].toInt() + 3);  // the others are no tensors
    return results;
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
    auto [dx, dweight] = RmsNormBackward(
        dy[0].contiguous(), saved[0], saved[1], ctx->saved_data["epsilon"].toDouble(),
        ctx->saved_data["unit_offset"].toBool(), ctx->needs_input_grad(1));
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

// Whether there are adapters, or gradients for x alone.
bool WeightsAreConstant(const at::Tensor& x, const std::vector<Matrix*>& matrices) {
  if (matrices.front()->weight().requires_grad()) return false;
  if (at::GradMode::is_enabled() && x.requires_grad()) return true;
  return std::any_of(matrices.begin(), matrices.end(),
                     [](const Matrix* matrix) { return matrix->adapter() != nullptr; });
}

at::Tensor AtenLinear(const at::Tensor& x, const Matrix& matrix, at::ScalarType type) {
  const Adapter* adapter = matrix.adapter();
  if (adapter == nullptr) return aten::Linear(x, matrix.weight(), matrix.bias(), type);
  const at::Tensor inner = aten::Linear(x, adapter->down.weight(), {}, at::kFloat);
  const at::Tensor outer =
      aten::Linear(inner * adapter->scale, adapter->up.weight(), {}, at::kFloat);
  return (aten::Linear(x, matrix.weight(), matrix.bias(), at::kFloat) + outer).to(type);
}

std::vector<at::Tensor> LinearsTo(Backend backend, const at::Tensor& x,
                                  const std::vector<Matrix*>& matrices, at::ScalarType type,
                                  Products products = Products::kValues) {
  std::vector<at::Tensor> results;
  if (backend == Backend::kAten) {
    for (const Matrix* matrix : matrices) {
      results.push_back(AtenLinear(x, *matrix, type));
    }
    return results;
  }
  if (WeightsAreConstant(x, matrices)) return AdaptedLinears(x, matrices, type);
  if (!NeedsGraph({x, matrices.front()->weight()})) return LinearsForward(x, matrices, type);
  std::vector<at::Tensor> tensors;
  for (const Matrix* matrix : matrices) tensors.push_back(matrix->weight());
  for (const Matrix* matrix : matrices) {
    if (matrix->bias().defined()) tensors.push_back(matrix->bias());
  }
  return LinearsFunction::apply(x, at::TensorList(tensors), matrices, type, products);
}

}  // namespace

Weights Matrix::ForProducts() {
  if (!packs_ || weight_.requires_grad()) return {weight_, false};
  const auto version = static_cast<int64_t>(weight_._version());
  if (!panels_.defined() || version != packed_version_) {
    PackInto(weight_, panels_);
    packed_version_ = version;
  }
  return {panels_, true};
}

at::Tensor Embed(Backend backend, const at::Tensor& table, const at::Tensor& ids) {
  if (backend == Backend::kAten) return aten::Embed(table, ids);
  if (NeedsGraph({table})) return EmbedFunction::apply(table, ids);
  return EmbedForward(table, ids);
}

at::Tensor Linear(Backend backend, const at::Tensor& x, Matrix& matrix) {
  return LinearsTo(backend, x, {&matrix}, x.scalar_type())[0];
}

at::Tensor LinearForGradients(Backend backend, const at::Tensor& x, Matrix& matrix) {
  return LinearsTo(backend, x, {&matrix}, x.scalar_type(), Products::kGradientsOnly)[0];
}

std::vector<at::Tensor> Linears(Backend backend, const at::Tensor& x,
                                const std::vector<Matrix*>& matrices) {
  return LinearsTo(backend, x, matrices, x.scalar_type());
}

at::Tensor LinearToFloat(Backend backend, const at::Tensor& x, Matrix& matrix) {
  return LinearsTo(backend, x, {&matrix}, at::kFloat)[0];
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
