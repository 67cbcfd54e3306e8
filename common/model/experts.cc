#include "common/model/experts.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>
#include <numeric>
#include <tuple>

#include "common/model/aten_operators.h"
#include "common/model/kernel_calls.h"
#include "common/model/parallel.h"

namespace rollcall::model {
namespace {

using kernels::Kernels;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::TensorOptions Options(at::ScalarType type) { return at::TensorOptions().dtype(type); }

struct Routing {
  at::Tensor weights;  // [tokens, top], float32
  at::Tensor chosen;   // [tokens, top], int64, ascending in each row
};

kernels::RouteArgs RouteArguments(const at::Tensor& logits, int64_t top, bool normalize) {
  kernels::RouteArgs args{};
  args.experts = logits.size(1);
  args.top = top;
  args.normalize = normalize;
  args.logits = logits.const_data_ptr<float>();
  return args;
}

Routing RouteForward(const at::Tensor& logits, int64_t top, bool normalize) {
  const int64_t tokens = logits.size(0);
  Routing routing{at::empty({tokens, top}, Options(at::kFloat)),
                  at::empty({tokens, top}, Options(at::kLong))};
  kernels::RouteArgs args = RouteArguments(logits, top, normalize);
  args.chosen = routing.chosen.mutable_data_ptr<int64_t>();
  args.weights = routing.weights.mutable_data_ptr<float>();
  ParallelRanges(tokens, 1, 16 * logits.numel(),
                 [&](int64_t begin, int64_t end) { Kernels().route(args, begin, end); });
  return routing;
}

struct RouteFunction : Function<RouteFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& logits, int64_t top,
                               bool normalize) {
    const Routing routing = RouteForward(logits, top, normalize);
    ctx->save_for_backward({logits, routing.weights, routing.chosen});
    ctx->saved_data["normalize"] = normalize;
    ctx->mark_non_differentiable({routing.chosen});
    return {routing.weights, routing.chosen};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dweights = gradients[0].contiguous();
    at::Tensor dlogits = at::empty_like(saved[0]), weights = saved[1], chosen = saved[2];
    kernels::RouteArgs args =
        RouteArguments(saved[0], dweights.size(1), ctx->saved_data["normalize"].toBool());
    args.chosen = chosen.mutable_data_ptr<int64_t>();
    args.weights = weights.mutable_data_ptr<float>();
    args.dweights = dweights.const_data_ptr<float>();
    args.dlogits = dlogits.mutable_data_ptr<float>();
    ParallelRanges(dlogits.size(0), 1, 16 * dlogits.numel(),
                   [&](int64_t begin, int64_t end) { Kernels().route_backward(args, begin, end); });
    return {dlogits, {}, {}};
  }
};

// Every (token, chosen expert) is a slot; slots lie expert after expert, in token order.
struct Slots {
  Slots(const at::Tensor& chosen, int64_t experts)
      : first(experts + 1, 0), token(chosen.numel()), slot(at::empty_like(chosen)) {
    const int64_t* expert = chosen.const_data_ptr<int64_t>();
    const int64_t count = chosen.numel(), top = chosen.size(1);
    for (int64_t i = 0; i < count; ++i) ++first[expert[i] + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    int64_t* out = slot.mutable_data_ptr<int64_t>();
    for (int64_t i = 0; i < count; ++i) {
      out[i] = next[expert[i]]++;
      token[out[i]] = i / top;
    }
  }

  int64_t Rows(int64_t expert) const { return first[expert + 1] - first[expert]; }
  at::Tensor Part(const at::Tensor& x, int64_t expert) const {
    return x.narrow(0, first[expert], Rows(expert));
  }
  int64_t count() const { return static_cast<int64_t>(token.size()); }

  std::vector<int64_t> first;  // slot of each expert, and the end
  std::vector<int64_t> token;  // of each slot
  at::Tensor slot;             // [tokens, top], int64
};

// The rows of x in slot order, x's dtype.
at::Tensor Gather(const at::Tensor& x, const Slots& slots) {
  const int64_t bytes = x.size(1) * static_cast<int64_t>(x.element_size());
  at::Tensor rows = at::empty({slots.count(), x.size(1)}, x.options());
  const char* from = static_cast<const char*>(x.const_data_ptr());
  char* to = static_cast<char*>(rows.mutable_data_ptr());
  for (int64_t i = 0; i < slots.count(); ++i) {
    std::memcpy(to + i * bytes, from + slots.token[i] * bytes, bytes);
  }
  return rows;
}

// weights: [tokens, top] -> [slots], float32.
at::Tensor SlotWeights(const at::Tensor& weights, const Slots& slots) {
  at::Tensor out = at::empty({slots.count()}, Options(at::kFloat));
  const int64_t* slot = slots.slot.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < slots.count(); ++i) {
    out.mutable_data_ptr<float>()[slot[i]] = weights.const_data_ptr<float>()[i];
  }
  return out;
}

// Sums the rows of each token: weighted, or plainly where weights is undefined.
at::Tensor Combine(const at::Tensor& rows, const Slots& slots, const at::Tensor& weights,
                   at::ScalarType type) {
  const int64_t tokens = slots.slot.size(0), width = rows.size(1);
  at::Tensor y = at::empty({tokens, width}, Options(type));
  const kernels::CombineArgs args{slots.slot.size(1),
                                  width,
                                  rows.const_data_ptr<float>(),
                                  slots.slot.const_data_ptr<int64_t>(),
                                  weights.defined() ? weights.const_data_ptr<float>() : nullptr,
                                  ElementOf(y),
                                  y.mutable_data_ptr()};
  ParallelRanges(tokens, 1, rows.numel(),
                 [&](int64_t begin, int64_t end) { Kernels().combine(args, begin, end); });
  return y;
}

// out rows of every expert that has any = x rows times its matrix; x, out: [slots, …].
void ForwardProducts(const Slots& slots, const at::Tensor& x, std::vector<Expert>& experts,
                     Matrix Expert::*matrix, at::Tensor& out,
                     std::vector<kernels::GemmArgs>& calls) {
  for (size_t e = 0; e < experts.size(); ++e) {
    const auto expert = static_cast<int64_t>(e);
    if (slots.Rows(expert) == 0) continue;
    at::Tensor part = slots.Part(out, expert);
    calls.push_back(
        LinearArgs(slots.Part(x, expert), (experts[e].*matrix).ForProducts(), at::Tensor(), part));
  }
}

struct MixtureResult {
  at::Tensor y, gate, up;
};

MixtureResult MixtureForward(const at::Tensor& x, const Routing& routing,
                             std::vector<Expert>& experts, kernels::Activation activation) {
  const Slots slots(routing.chosen, static_cast<int64_t>(experts.size()));
  const int64_t inner = experts[0].gate.weight().size(0);
  const at::Tensor rows = Gather(x, slots);
  MixtureResult result;
  result.gate = at::empty({slots.count(), inner}, x.options());
  result.up = at::empty_like(result.gate);
  std::vector<kernels::GemmArgs> calls;
  ForwardProducts(slots, rows, experts, &Expert::gate, result.gate, calls);
  ForwardProducts(slots, rows, experts, &Expert::up, result.up, calls);
  ParallelGemms(calls);
  const at::Tensor inside = GluForward(activation, result.gate, result.up);
  at::Tensor down = at::empty({slots.count(), x.size(1)}, Options(at::kFloat));
  calls.clear();
  ForwardProducts(slots, inside, experts, &Expert::down, down, calls);
  ParallelGemms(calls);
  result.y = Combine(down, slots, routing.weights, x.scalar_type());
  return result;
}

// Where the matrices of an expert lie in a flat list of all experts' weights.
constexpr size_t kGate = 0, kUp = 1, kDown = 2, kMatrices = 3;

struct MixtureGradients {
  at::Tensor dx, dweights;
  variable_list dmatrices;  // float32, gate, up, down of each expert; empty where not needed
};

class MixtureBackward {
 public:
  MixtureBackward(const at::Tensor& x, const Routing& routing, const variable_list& matrices,
                  kernels::Activation activation, bool need_matrices)
      : x_(x),
        routing_(routing),
        matrices_(matrices),
        activation_(activation),
        need_matrices_(need_matrices),
        experts_(static_cast<int64_t>(matrices.size() / kMatrices)),
        slots_(routing.chosen, experts_) {}

  MixtureGradients Run(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up) {
    MixtureGradients gradients;
    for (const at::Tensor& matrix : matrices_) {
      if (!need_matrices_) break;
      gradients.dmatrices.push_back(at::zeros(matrix.sizes(), Options(at::kFloat)));
    }
    const at::Tensor inside = GluForward(activation_, gate, up);
    const at::Tensor slot_weights = SlotWeights(routing_.weights, slots_);
    const at::Tensor dy_rows = Gather(dy, slots_);
    at::Tensor u = at::empty(inside.sizes(), Options(at::kFloat));
    AddDx(dy_rows, kDown, u, false);
    RunCalls();

    at::Tensor dslot = at::empty_like(slot_weights), dinside = at::empty_like(inside);
    const kernels::WeighArgs weigh{inside.size(1),
                                   ElementOf(inside),
                                   u.const_data_ptr<float>(),
                                   inside.const_data_ptr(),
                                   slot_weights.const_data_ptr<float>(),
                                   dslot.mutable_data_ptr<float>(),
                                   dinside.mutable_data_ptr()};
    ParallelRanges(slots_.count(), 1, 2 * u.numel(),
                   [&](int64_t begin, int64_t end) { Kernels().weigh(weigh, begin, end); });
    gradients.dweights =
        dslot.index_select(0, slots_.slot.flatten()).view(routing_.weights.sizes());

    const auto [dgate, dup] = GluBackward(activation_, dinside, gate, up);
    const at::Tensor rows = Gather(x_, slots_);
    const at::Tensor weighted_dy = dy_rows.to(at::kFloat) * slot_weights.unsqueeze(1);
    AddDw(weighted_dy, inside, kDown, gradients.dmatrices);
    AddDw(dgate, rows, kGate, gradients.dmatrices);
    AddDw(dup, rows, kUp, gradients.dmatrices);
    at::Tensor dx_rows = at::empty(rows.sizes(), Options(at::kFloat));
    AddDx(dgate, kGate, dx_rows, false);
    RunCalls();
    AddDx(dup, kUp, dx_rows, true);
    RunCalls();
    gradients.dx = Combine(dx_rows, slots_, {}, x_.scalar_type());
    return gradients;
  }

 private:
  void AddDx(const at::Tensor& dy, size_t which, at::Tensor& dx, bool accumulate) {
    for (int64_t e = 0; e < experts_; ++e) {
      if (slots_.Rows(e) == 0) continue;
      at::Tensor part = slots_.Part(dx, e);
      calls_.push_back(
          LinearDxArgs(slots_.Part(dy, e), matrices_[e * kMatrices + which], part, accumulate));
    }
  }
  void AddDw(const at::Tensor& dy, const at::Tensor& x, size_t which, variable_list& dmatrices) {
    for (int64_t e = 0; e < experts_ && need_matrices_; ++e) {
      if (slots_.Rows(e) == 0) continue;
      calls_.push_back(LinearDwArgs(slots_.Part(dy, e), slots_.Part(x, e),
                                    dmatrices[e * kMatrices + which], false));
    }
  }
  void RunCalls() {
    ParallelGemms(calls_);
    calls_.clear();
  }

  const at::Tensor& x_;
  const Routing& routing_;
  const variable_list& matrices_;
  const kernels::Activation activation_;
  const bool need_matrices_;
  const int64_t experts_;
  const Slots slots_;
  std::vector<kernels::GemmArgs> calls_;
};

struct MixtureFunction : Function<MixtureFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weights,
                            const at::Tensor& chosen, at::TensorList matrices,
                            std::vector<Expert>* experts, kernels::Activation activation) {
    MixtureResult result = MixtureForward(x, {weights, chosen}, *experts, activation);
    variable_list saved = {x, weights, chosen, result.gate, result.up};
    saved.insert(saved.end(), matrices.begin(), matrices.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["activation"] = static_cast<int64_t>(activation);
    return result.y;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& dy) {
    const variable_list saved = ctx->get_saved_variables();
    const Routing routing{saved[1], saved[2]};
    const variable_list matrices(saved.begin() + 5, saved.end());
    const auto activation = static_cast<kernels::Activation>(ctx->saved_data["activation"].toInt());
    MixtureGradients gradients =
        MixtureBackward(saved[0], routing, matrices, activation, ctx->needs_input_grad(3))
            .Run(dy[0].contiguous(), saved[3], saved[4]);
    variable_list all = {gradients.dx, gradients.dweights, {}};
    all.insert(all.end(), gradients.dmatrices.begin(), gradients.dmatrices.end());
    all.resize(3 + matrices.size() + 2);  // two arguments are no tensors
    return all;
  }
};

// The same in plain LibTorch.
at::Tensor MixtureWithAten(const at::Tensor& x, Matrix& router, std::vector<Expert>& experts,
                           const MixtureOptions& options) {
  const at::Tensor logits = LinearToFloat(Backend::kAten, x, router);
  const at::Tensor order = std::get<1>(logits.sort(/*stable=*/true, -1, /*descending=*/true));
  const at::Tensor chosen = std::get<0>(order.narrow(1, 0, options.experts_per_token).sort(-1));
  at::Tensor weights = at::softmax(logits, -1).gather(1, chosen);
  if (options.normalize) weights = weights / weights.sum(-1, /*keepdim=*/true);
  at::Tensor sum = at::zeros(x.sizes(), x.options().dtype(at::kFloat));
  for (size_t e = 0; e < experts.size(); ++e) {
    const at::Tensor places = (chosen == static_cast<int64_t>(e)).nonzero();
    // With gradients on, an expert without rows still gets its gradient of zeros.
    if (places.size(0) == 0 && !at::GradMode::is_enabled()) continue;
    const at::Tensor token = places.select(1, 0), rank = places.select(1, 1);
    const at::Tensor rows = x.index_select(0, token);
    const at::Tensor inside =
        aten::Glu(options.activation, Linear(Backend::kAten, rows, experts[e].gate),
                  Linear(Backend::kAten, rows, experts[e].up));
    const at::Tensor weight = weights.index_select(0, token).gather(1, rank.unsqueeze(1));
    sum = sum.index_add(0, token, LinearToFloat(Backend::kAten, inside, experts[e].down) * weight);
  }
  return sum.to(x.scalar_type());
}

}  // namespace

at::Tensor MixtureOfExperts(Backend backend, const at::Tensor& x, Matrix& router,
                            std::vector<Expert>& experts, const MixtureOptions& options) {
  if (backend == Backend::kAten) return MixtureWithAten(x, router, experts, options);
  const at::Tensor logits = LinearToFloat(backend, x, router);
  const int64_t top = options.experts_per_token;
  const bool graph = at::GradMode::is_enabled() && (x.requires_grad() || logits.requires_grad() ||
                                                    experts[0].gate.weight().requires_grad());
  if (!graph) {
    return MixtureForward(x, RouteForward(logits, top, options.normalize), experts,
                          options.activation)
        .y;
  }
  const variable_list routing = RouteFunction::apply(logits, top, options.normalize);
  std::vector<at::Tensor> matrices;
  for (const Expert& expert : experts) {
    for (const Matrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
      matrices.push_back(matrix->weight());
    }
  }
  const at::TensorList list(matrices);
  return MixtureFunction::apply(x, routing[0], routing[1], list, &experts, options.activation);
}

}  // namespace rollcall::model
