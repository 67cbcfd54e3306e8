#include "services/learner/algorithms/advantage.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"

namespace rollcall::learner {
namespace {

struct GroupMoments {
  double mean = 0;
  // With n - 1 below; 0 when all rewards are equal.
  double std = 0;
  bool constant = false;
};

// `rewards` holds at least two.
GroupMoments MomentsOf(std::vector<double> rewards) {
  std::sort(rewards.begin(), rewards.end());
  GroupMoments moments;
  moments.constant = rewards.back() - rewards.front() == 0;
  double sum = 0;
  for (const double reward : rewards) sum += reward;
  moments.mean = sum / static_cast<double>(rewards.size());
  if (moments.constant) return moments;
  double squares = 0;
  for (const double reward : rewards) {
    squares += (reward - moments.mean) * (reward - moments.mean);
  }
  moments.std = std::sqrt(squares / static_cast<double>(rewards.size() - 1));
  return moments;
}

absl::StatusOr<std::map<int64_t, GroupMoments>> MomentsByGroup(const std::vector<double>& rewards,
                                                               const int64_t* group_id) {
  std::map<int64_t, std::vector<double>> groups;
  for (size_t i = 0; i < rewards.size(); ++i) {
    if (!std::isfinite(rewards[i])) {
      return absl::InvalidArgumentError(absl::StrCat("reward of sequence ", i, " in group ",
                                                     group_id[i], " must be finite, got ",
                                                     rewards[i]));
    }
    groups[group_id[i]].push_back(rewards[i]);
  }
  std::map<int64_t, GroupMoments> moments;
  for (auto& [id, members] : groups) {
    if (members.size() < 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          "group ", id, " has one scored sequence; group-relative advantages need at least two"));
    }
    moments.emplace(id, MomentsOf(std::move(members)));
  }
  return moments;
}

template <typename T>
std::vector<double> ToDoubles(const at::Tensor& tensor) {
  const T* data = tensor.const_data_ptr<T>();
  return std::vector<double>(data, data + tensor.numel());
}

}  // namespace

absl::StatusOr<at::Tensor> GroupNormalizedAdvantages(const at::Tensor& rewards,
                                                     const at::Tensor& group_id,
                                                     const GroupNormalization& options) {
  const bool is_double = rewards.scalar_type() == at::kDouble;
  if ((!is_double && rewards.scalar_type() != at::kFloat) || rewards.dim() != 1 ||
      group_id.scalar_type() != at::kLong || group_id.dim() != 1 ||
      group_id.numel() != rewards.numel() || rewards.is_cuda() || group_id.is_cuda()) {
    return absl::InvalidArgumentError(
        "advantages need float rewards and int64 group ids of one length, on the CPU");
  }
  const at::Tensor dense = rewards.contiguous();
  const at::Tensor dense_id = group_id.contiguous();
  const std::vector<double> values = is_double ? ToDoubles<double>(dense) : ToDoubles<float>(dense);
  const int64_t* ids = dense_id.const_data_ptr<int64_t>();
  auto moments = MomentsByGroup(values, ids);
  if (!moments.ok()) return moments.status();

  at::Tensor advantages = at::empty_like(dense);
  for (size_t i = 0; i < values.size(); ++i) {
    const GroupMoments& group = moments->at(ids[i]);
    double advantage = group.constant ? 0.0 : values[i] - group.mean;
    if (!group.constant && options.normalization != v1::ADVANTAGE_NORMALIZATION_GROUP_MEAN) {
      advantage /= group.std + options.epsilon;
    }
    if (is_double) {
      advantages.mutable_data_ptr<double>()[i] = advantage;
    } else {
      advantages.mutable_data_ptr<float>()[i] = static_cast<float>(advantage);
    }
  }
  return advantages;
}

}  // namespace rollcall::learner
