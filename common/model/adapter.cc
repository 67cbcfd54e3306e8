#include "common/model/adapter.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "common/base/philox.h"
#include "common/model/kernel_calls.h"

namespace rollcall::model {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Role = AdapterParameter::Role;

AdapterSet::AdapterSet(const ModelConfig& config, const LoraConfig& lora,
                       std::span<const tensor::NamedTensor> parameters)
    : lora_(lora), adapters_(parameters.size()) {
  for (const AdapterParameter& own : AdapterParametersOf(config, lora)) {
    const at::Tensor& base = parameters[own.of].tensor;
    places_.push_back({own.role, own.of});
    if (own.role == Role::kWhole) {
      parameters_.push_back({own.name, base});
      continue;
    }
    const at::Tensor& tensor =
        parameters_
            .emplace_back(tensor::NamedTensor{
                own.name, at::zeros(own.shape, base.options().dtype(at::kFloat))})
            .tensor;
    std::shared_ptr<Adapter>& adapter = adapters_[own.of];
    if (adapter == nullptr) adapter = std::make_shared<Adapter>();
    adapter->scale = static_cast<float>(lora.Scale());
    (own.role == Role::kDown ? adapter->down : adapter->up) = Matrix(tensor);
  }
}

void AdapterSet::InitializeRandom(uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& parameter = parameters_[i].tensor;
    if (places_[i].role == Role::kUp) parameter.zero_();
    if (places_[i].role != Role::kDown) continue;
    const double bound = 1.0 / std::sqrt(static_cast<double>(parameter.size(1)));
    at::Tensor values = at::empty(parameter.sizes(), at::TensorOptions().dtype(at::kFloat));
    float* out = values.mutable_data_ptr<float>();
    PhiloxStream random(seed, kStream + i);
    for (int64_t j = 0; j < values.numel(); ++j) {
      out[j] = static_cast<float>(bound * (2.0 * random.Uniform() - 1.0));
    }
    parameter.copy_(values);
  }
}

std::shared_ptr<Adapter> AdapterSet::Of(size_t index) const { return adapters_[index]; }

void AdapterSet::InvalidatePacked() {
  for (const std::shared_ptr<Adapter>& adapter : adapters_) {
    if (adapter == nullptr) continue;
    adapter->down.InvalidatePacked();
    adapter->up.InvalidatePacked();
  }
}

std::vector<tensor::NamedTensor> AdapterSet::Merged(
    std::span<const tensor::NamedTensor> parameters) const {
  const at::NoGradGuard no_grad;
  std::vector<tensor::NamedTensor> merged;
  for (size_t i = 0; i < parameters.size(); ++i) {
    at::Tensor weight = parameters[i].tensor.detach();
    if (const std::shared_ptr<Adapter>& adapter = adapters_[i]; adapter != nullptr) {
      const at::Tensor product =
          adapter->up.weight().detach().matmul(adapter->down.weight().detach());
      weight = weight.to(at::kFloat).add(product.mul(adapter->scale)).to(weight.scalar_type());
    }
    merged.push_back({parameters[i].name, weight});
  }
  return merged;
}

namespace {

at::TensorOptions Options(at::ScalarType type) { return at::TensorOptions().dtype(type); }

struct AdaptedResult {
  std::vector<at::Tensor> ys;
  // scale x A^T of each: [tokens, r], float32; undefined where there is no adapter.
  std::vector<at::Tensor> inner;
};

AdaptedResult AdaptedForward(const at::Tensor& x, const std::vector<Matrix*>& matrices,
                             at::ScalarType type) {
  const int64_t tokens = x.size(0);
  AdaptedResult result;
  std::vector<Weights> weights;  // alive while the products run
  std::vector<kernels::GemmArgs> calls;
  for (Matrix* matrix : matrices) {
    Adapter* adapter = matrix->adapter();
    weights.push_back(matrix->ForProducts());
    at::Tensor& y = result.ys.emplace_back(at::empty(
        {tokens, matrix->weight().size(0)}, Options(adapter == nullptr ? type : at::kFloat)));
    calls.push_back(LinearArgs(x, weights.back(), matrix->bias(), y));
    at::Tensor& inner = result.inner.emplace_back();
    if (adapter == nullptr) continue;
    inner = at::empty({tokens, adapter->down.weight().size(0)}, Options(at::kFloat));
    weights.push_back(adapter->down.ForProducts());
    calls.push_back(LinearArgs(x, weights.back(), {}, inner));
  }
  ParallelGemms(calls);
  calls.clear();
  for (size_t i = 0; i < matrices.size(); ++i) {
    Adapter* adapter = matrices[i]->adapter();
    if (adapter == nullptr) continue;
    result.inner[i].mul_(adapter->scale);
    weights.push_back(adapter->up.ForProducts());
    kernels::GemmArgs& call =
        calls.emplace_back(LinearArgs(result.inner[i], weights.back(), {}, result.ys[i]));
    call.accumulate = true;
  }
  if (!calls.empty()) ParallelGemms(calls);
  for (at::Tensor& y : result.ys) y = y.to(type);
  return result;
}

// What the backward pass knows of each matrix.
struct Saved {
  at::Tensor weight, down, up, inner;  // the last three undefined where there is no adapter
  float scale;
};

// Gradients of x W^T's place before A and B: scale dy B, [tokens, r] each.
std::vector<at::Tensor> InnerGradients(const variable_list& dys, const std::vector<Saved>& saved) {
  std::vector<at::Tensor> inner(saved.size());
  std::vector<kernels::GemmArgs> calls;
  for (size_t i = 0; i < saved.size(); ++i) {
    if (!saved[i].up.defined()) continue;
    inner[i] = at::empty({dys[i].size(0), saved[i].up.size(1)}, Options(at::kFloat));
    calls.push_back(LinearDxArgs(dys[i], saved[i].up, inner[i], /*accumulate=*/false));
  }
  ParallelGemms(calls);
  for (size_t i = 0; i < saved.size(); ++i) {
    if (inner[i].defined()) inner[i].mul_(saved[i].scale);
  }
  return inner;
}

// {dA, dB} of each adapter, in order.
variable_list AdapterGradients(const at::Tensor& x, const variable_list& dys,
                               const std::vector<Saved>& saved,
                               const std::vector<at::Tensor>& inner) {
  variable_list gradients;
  std::vector<kernels::GemmArgs> calls;
  for (size_t i = 0; i < saved.size(); ++i) {
    if (!inner[i].defined()) continue;
    at::Tensor down = at::empty(saved[i].down.sizes(), Options(at::kFloat));
    at::Tensor up = at::empty(saved[i].up.sizes(), Options(at::kFloat));
    calls.push_back(LinearDwArgs(inner[i], x, down, /*accumulate=*/false));
    calls.push_back(LinearDwArgs(dys[i], saved[i].inner, up, /*accumulate=*/false));
    gradients.push_back(std::move(down));
    gradients.push_back(std::move(up));
  }
  ParallelGemms(calls);
  return gradients;
}

// The products with W as without adapters (LinearsDx), in float32; then those with A, the last first.
at::Tensor AdaptedDx(const variable_list& dys, const std::vector<Saved>& saved,
                     const std::vector<at::Tensor>& inner, at::ScalarType type) {
  std::vector<at::Tensor> weights;
  bool adapted = false;
  for (size_t i = 0; i < saved.size(); ++i) {
    weights.push_back(saved[i].weight);
    adapted = adapted || inner[i].defined();
  }
  if (!adapted) return LinearsDx(dys, weights, type);
  at::Tensor dx = LinearsDx(dys, weights, at::kFloat);
  for (size_t i = saved.size(); i-- > 0;) {
    if (!inner[i].defined()) continue;
    const kernels::GemmArgs call = LinearDxArgs(inner[i], saved[i].down, dx, /*accumulate=*/true);
    ParallelGemms({&call, 1});
  }
  return dx.to(type);
}

struct AdaptedLinearsFunction : Function<AdaptedLinearsFunction> {
  // tensors: A and B of each adapter.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, at::TensorList tensors,
                               const std::vector<Matrix*>& matrices, at::ScalarType type) {
    AdaptedResult result = AdaptedForward(x, matrices, type);
    // A product with constants needs no x.
    variable_list saved = {tensors.empty() ? at::Tensor() : x};
    std::vector<double> scales;
    for (size_t i = 0; i < matrices.size(); ++i) {
      const Adapter* adapter = matrices[i]->adapter();
      const bool has = adapter != nullptr;
      saved.insert(saved.end(), {matrices[i]->weight(), has ? adapter->down.weight() : at::Tensor(),
                                 has ? adapter->up.weight() : at::Tensor(), result.inner[i]});
      scales.push_back(has ? adapter->scale : 0);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["scales"] = scales;
    ctx->saved_data["type"] = static_cast<int64_t>(x.scalar_type());
    return result.ys;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list tensors = ctx->get_saved_variables();
    const std::vector<double> scales = ctx->saved_data["scales"].toDoubleVector();
    std::vector<Saved> saved;
    for (size_t i = 0; i < scales.size(); ++i) {
      const at::Tensor* of = &tensors[1 + 4 * i];
      saved.push_back({of[0], of[1], of[2], of[3], static_cast<float>(scales[i])});
    }
    variable_list dys;
    for (const at::Tensor& gradient : gradients) dys.push_back(gradient.contiguous());
    const std::vector<at::Tensor> inner = InnerGradients(dys, saved);
    variable_list results(1);
    if (ctx->needs_input_grad(0)) {
      results[0] = AdaptedDx(dys, saved, inner,
                             static_cast<at::ScalarType>(ctx->saved_data["type"].toInt()));
    }
    for (at::Tensor& gradient : AdapterGradients(tensors[0], dys, saved, inner)) {
      results.push_back(std::move(gradient));
    }
    results.resize(results.size() + 2);  // the arguments that are no tensors
    return results;
  }
};

}  // namespace

std::vector<at::Tensor> AdaptedLinears(const at::Tensor& x, const std::vector<Matrix*>& matrices,
                                       at::ScalarType type) {
  std::vector<at::Tensor> tensors;
  bool graph = x.requires_grad();
  for (const Matrix* matrix : matrices) {
    const Adapter* adapter = matrix->adapter();
    if (adapter == nullptr) continue;
    graph = graph || adapter->down.weight().requires_grad();
    tensors.push_back(adapter->down.weight());
    tensors.push_back(adapter->up.weight());
  }
  if (!graph || !at::GradMode::is_enabled()) return AdaptedForward(x, matrices, type).ys;
  return AdaptedLinearsFunction::apply(x, at::TensorList(tensors), matrices, type);
}

}  // namespace rollcall::model
