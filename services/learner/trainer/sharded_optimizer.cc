#include "services/learner/trainer/sharded_optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

constexpr char kMaster[] = "master.";

std::vector<int64_t> Counts(std::span<const tensor::NamedTensor> parameters) {
  std::vector<int64_t> counts;
  for (const auto& parameter : parameters) counts.push_back(parameter.tensor.numel());
  return counts;
}

std::vector<at::Tensor> Tensors(std::span<const tensor::NamedTensor> named) {
  std::vector<at::Tensor> tensors;
  for (const auto& one : named) tensors.push_back(one.tensor);
  return tensors;
}

// A whole tensor as it is, so that one rank works on the parameters themselves.
at::Tensor ViewOrWhole(const at::Tensor& tensor, const FlatShards::Piece& piece) {
  const bool whole = piece.begin == 0 && piece.end == tensor.numel();
  return whole ? tensor : View(tensor, piece);
}

std::vector<tensor::NamedTensor> Cut(std::span<const tensor::NamedTensor> parameters,
                                     std::span<const FlatShards::Piece> pieces) {
  std::vector<tensor::NamedTensor> cut;
  for (const FlatShards::Piece& piece : pieces) {
    const auto& [name, tensor] = parameters[piece.tensor];
    cut.push_back({name, ViewOrWhole(tensor, piece)});
  }
  return cut;
}

}  // namespace

ShardedOptimizer::ShardedOptimizer(std::span<const tensor::NamedTensor> parameters,
                                   const v1::OptimizerSection& options, ProcessGroup* group)
    : group_(group),
      parameters_(parameters.begin(), parameters.end()),
      shards_(Counts(parameters), group->size()),
      pieces_(shards_.Pieces(group->rank())),
      own_(Cut(parameters, pieces_), options) {}

absl::StatusOr<std::vector<at::Tensor>> ShardedOptimizer::SummedGradients() const {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> gradients;
  for (const auto& parameter : parameters_) {
    const at::Tensor gradient = parameter.tensor.grad();
    gradients.push_back(gradient.defined() ? gradient
                                           : at::zeros_like(parameter.tensor.detach(), at::kFloat));
  }
  if (group_->size() == 1) return gradients;
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor sum, ReduceScatter(*group_, shards_, gradients));
  std::vector<at::Tensor> own;
  int64_t at = 0;
  for (const FlatShards::Piece& piece : pieces_) {
    const int64_t count = piece.end - piece.begin;
    const at::Tensor flat = sum.slice(0, at, at + count);
    const at::Tensor& whole = parameters_[piece.tensor].tensor;
    own.push_back(count == whole.numel() ? flat.view(whole.sizes()) : flat);
    at += count;
  }
  return own;
}

absl::Status ShardedOptimizer::Update(std::span<const at::Tensor> gradients, double lr) {
  own_.Update(gradients, lr);
  if (group_->size() == 1) return absl::OkStatus();
  return AllGatherShards(*group_, shards_, Tensors(parameters_));
}

std::vector<std::string> ShardedOptimizer::Kinds() const {
  std::vector<std::string> kinds = {"exp_avg.", "exp_avg_sq."};
  for (const auto& parameter : parameters_) {
    if (!HasMaster(parameter.tensor)) continue;
    kinds.push_back(kMaster);
    break;
  }
  return kinds;
}

at::Tensor ShardedOptimizer::OwnFlat(const std::string& kind) const {
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, tensor] : own_.State()) state.emplace(name, tensor);
  std::vector<at::Tensor> parts = {
      at::empty({0}, parameters_[0].tensor.options().dtype(at::kFloat).requires_grad(false))};
  for (const FlatShards::Piece& piece : pieces_) {
    const auto& [name, parameter] = parameters_[piece.tensor];
    const auto found = state.find(absl::StrCat(kind, name));
    parts.push_back(found != state.end() ? found->second.reshape({-1}) : View(parameter, piece));
  }
  return at::cat(parts);
}

absl::StatusOr<std::vector<tensor::NamedTensor>> ShardedOptimizer::GatherState() const {
  if (group_->size() == 1) return own_.State();
  const at::NoGradGuard no_grad;
  const bool receives = group_->rank() == 0;
  std::map<std::string, std::vector<at::Tensor>> gathered;
  for (const std::string& kind : Kinds()) {
    std::vector<at::Tensor>& whole = gathered[kind];
    for (const auto& parameter : parameters_) {
      if (receives) whole.push_back(at::zeros_like(parameter.tensor.detach(), at::kFloat));
    }
    ROLLCALL_RETURN_IF_ERROR(GatherShards(*group_, shards_, OwnFlat(kind), whole));
  }
  std::vector<tensor::NamedTensor> state;
  if (!receives) return state;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, parameter] = parameters_[i];
    for (const auto& [kind, whole] : gathered) {
      if (kind == kMaster && !HasMaster(parameter)) continue;
      state.push_back({absl::StrCat(kind, name), whole[i]});
    }
  }
  state.push_back({"updates", at::tensor(std::vector<int64_t>{updates()})});
  return state;
}

absl::Status ShardedOptimizer::Check(const std::map<std::string, at::Tensor>& state) const {
  if (group_->size() == 1) return own_.Check(state);
  std::vector<tensor::NamedTensor> expected;
  const auto on_meta = at::TensorOptions().dtype(at::kFloat).device(at::kMeta);
  for (const auto& [name, parameter] : parameters_) {
    for (const std::string& kind : Kinds()) {
      if (kind == kMaster && !HasMaster(parameter)) continue;
      expected.push_back({absl::StrCat(kind, name), at::empty(parameter.sizes(), on_meta)});
    }
  }
  expected.push_back({"updates", at::empty({1}, on_meta.dtype(at::kLong))});
  return CheckOptimizerState(state, expected);
}

void ShardedOptimizer::Restore(const std::map<std::string, at::Tensor>& state) {
  std::map<std::string, at::Tensor> own;
  for (const FlatShards::Piece& piece : pieces_) {
    const std::string& name = parameters_[piece.tensor].name;
    for (const std::string& kind : Kinds()) {
      const auto found = state.find(absl::StrCat(kind, name));
      if (found == state.end()) continue;  // a float32 parameter has no master of its own
      own.emplace(found->first, ViewOrWhole(found->second, piece));
    }
  }
  own.emplace("updates", state.at("updates"));
  own_.Restore(own);
}

absl::Status ShardedOptimizer::Scatter(const std::map<std::string, at::Tensor>& state) {
  if (group_->size() == 1) return absl::OkStatus();
  const at::NoGradGuard no_grad;
  const bool gives = group_->rank() == 0;
  at::Tensor updates = at::tensor(std::vector<int64_t>{0});
  if (gives) updates.copy_(state.at("updates"));
  ROLLCALL_RETURN_IF_ERROR(group_->Broadcast(updates));
  std::map<std::string, at::Tensor> own = {{"updates", updates}};
  for (const std::string& kind : Kinds()) {
    std::vector<at::Tensor> whole;
    for (const auto& [name, parameter] : parameters_) {
      if (!gives) break;
      const auto found = state.find(absl::StrCat(kind, name));
      whole.push_back(found != state.end() ? found->second : parameter);
    }
    const at::Tensor flat = OwnFlat(kind);
    ROLLCALL_RETURN_IF_ERROR(ScatterShards(*group_, shards_, whole, flat));
    int64_t at = 0;
    for (const FlatShards::Piece& piece : pieces_) {
      const auto& [name, parameter] = parameters_[piece.tensor];
      const int64_t count = piece.end - piece.begin;
      const at::Tensor part = flat.slice(0, at, at + count);
      at += count;
      if (kind == kMaster && !HasMaster(parameter)) continue;
      own.emplace(absl::StrCat(kind, name),
                  count == parameter.numel() ? part.view(parameter.sizes()) : part);
    }
  }
  own_.Restore(own);
  return absl::OkStatus();
}

}  // namespace rollcall::learner
