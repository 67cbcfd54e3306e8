#include "services/learner/trainer/adamw.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include "absl/strings/str_cat.h"
#include "services/learner/trainer/written_number.h"

namespace rollcall::learner {

absl::Status CheckOptimizerState(const std::map<std::string, at::Tensor>& state,
                                 std::span<const tensor::NamedTensor> expected) {
  for (const auto& [name, tensor] : expected) {
    const auto found = state.find(name);
    if (found == state.end()) {
      return absl::InvalidArgumentError(absl::StrCat("optimizer state: ", name, " is missing"));
    }
    if (found->second.sizes() != tensor.sizes() ||
        found->second.scalar_type() != tensor.scalar_type()) {
      return absl::InvalidArgumentError(
          absl::StrCat("optimizer state: ", name, " has another shape or dtype"));
    }
  }
  if (state.size() != expected.size()) {
    return absl::InvalidArgumentError(absl::StrCat("optimizer state: expected ", expected.size(),
                                                   " tensors, got ", state.size()));
  }
  return absl::OkStatus();
}

AdamW::AdamW(std::span<const tensor::NamedTensor> parameters, const v1::OptimizerSection& options)
    : beta1_(WrittenNumber(options.beta1())),
      beta2_(WrittenNumber(options.beta2())),
      epsilon_(WrittenNumber(options.epsilon())),
      weight_decay_(WrittenNumber(options.weight_decay())) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters) {
    names_.push_back(name);
    parameters_.push_back(parameter.detach());
    masters_.push_back(parameters_.back().to(at::kFloat));
    exp_avg_.push_back(at::zeros_like(masters_.back()));
    exp_avg_sq_.push_back(at::zeros_like(masters_.back()));
  }
}

void AdamW::Update(std::span<const at::Tensor> gradients, double lr) {
  const at::NoGradGuard no_grad;
  ++updates_;
  if (masters_.empty()) return;
  const std::vector<at::Tensor> steps(
      masters_.size(),
      at::full({}, updates_, at::TensorOptions().dtype(at::kFloat).device(masters_[0].device())));
  at::_fused_adamw_(masters_, at::TensorList(gradients.data(), gradients.size()), exp_avg_,
                    exp_avg_sq_, /*max_exp_avg_sqs=*/{}, steps, lr, beta1_, beta2_, weight_decay_,
                    epsilon_, /*amsgrad=*/false, /*maximize=*/false);
  RoundMasters();
}

void AdamW::RoundMasters() {
  for (size_t i = 0; i < masters_.size(); ++i) {
    if (!masters_[i].is_alias_of(parameters_[i])) parameters_[i].copy_(masters_[i]);
  }
}

std::vector<tensor::NamedTensor> AdamW::State() const {
  std::vector<tensor::NamedTensor> state;
  for (size_t i = 0; i < names_.size(); ++i) {
    state.push_back({absl::StrCat("exp_avg.", names_[i]), exp_avg_[i]});
    state.push_back({absl::StrCat("exp_avg_sq.", names_[i]), exp_avg_sq_[i]});
    if (!masters_[i].is_alias_of(parameters_[i])) {
      state.push_back({absl::StrCat("master.", names_[i]), masters_[i]});
    }
  }
  state.push_back({"updates", at::full({1}, updates_, at::TensorOptions().dtype(at::kLong))});
  return state;
}

absl::Status AdamW::Check(const std::map<std::string, at::Tensor>& state) const {
  return CheckOptimizerState(state, State());
}

void AdamW::Restore(const std::map<std::string, at::Tensor>& state) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : State()) {
    if (name != "updates") tensor.copy_(state.at(name));
  }
  updates_ = state.at("updates").item<int64_t>();
  RoundMasters();
}

}  // namespace rollcall::learner
