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

struct Moments {
  double mean = 0;
  // With n - 1 below; 0 when all values are equal.
  double std = 0;
  bool constant = true;
};

Moments MomentsOf(std::vector<double> values) {
  Moments moments;
  if (values.empty()) return moments;
  std::sort(values.begin(), values.end());
  moments.constant = values.back() - values.front() == 0;
  double sum = 0;
  for (const double value : values) sum += value;
  moments.mean = sum / static_cast<double>(values.size());
  if (moments.constant) return moments;
  double squares = 0;
  for (const double value : values) {
    squares += (value - moments.mean) * (value - moments.mean);
  }
  moments.std = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return moments;
}

std::vector<double> ToDoubles(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.to(at::kDouble).contiguous();
  const double* data = dense.const_data_ptr<double>();
  return {data, data + dense.numel()};
}

at::Tensor FromDoubles(const at::Tensor& like, const std::vector<double>& values) {
  at::Tensor result = at::empty_like(like.contiguous());
  for (size_t i = 0; i < values.size(); ++i) {
    if (like.scalar_type() == at::kDouble) {
      result.mutable_data_ptr<double>()[i] = values[i];
    } else {
      result.mutable_data_ptr<float>()[i] = static_cast<float>(values[i]);
    }
  }
  return result;
}

struct Grouped {
  std::vector<double> rewards;
  // Places of each group's members, in ascending order of reward.
  std::map<int64_t, std::vector<size_t>> members;
};

absl::StatusOr<Grouped> GroupRewards(const at::Tensor& rewards, const at::Tensor& group_id) {
  const bool is_float = rewards.scalar_type() == at::kDouble || rewards.scalar_type() == at::kFloat;
  if (!is_float || rewards.dim() != 1 || group_id.scalar_type() != at::kLong ||
      group_id.dim() != 1 || group_id.numel() != rewards.numel() || rewards.is_cuda() ||
      group_id.is_cuda()) {
    return absl::InvalidArgumentError(
        "advantages need float rewards and int64 group ids of one length, on the CPU");
  }
  Grouped grouped{.rewards = ToDoubles(rewards), .members = {}};
  const at::Tensor dense_id = group_id.contiguous();
  const int64_t* ids = dense_id.const_data_ptr<int64_t>();
  for (size_t i = 0; i < grouped.rewards.size(); ++i) {
    if (!std::isfinite(grouped.rewards[i])) {
      return absl::InvalidArgumentError(absl::StrCat("reward of sequence ", i, " in group ", ids[i],
                                                     " must be finite, got ", grouped.rewards[i]));
    }
    grouped.members[ids[i]].push_back(i);
  }
  for (auto& [id, places] : grouped.members) {
    if (places.size() < 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          "group ", id, " has one scored sequence; group-relative advantages need at least two"));
    }
    std::stable_sort(places.begin(), places.end(),
                     [&](size_t a, size_t b) { return grouped.rewards[a] < grouped.rewards[b]; });
  }
  return grouped;
}

std::vector<double> At(const std::vector<double>& values, const std::vector<size_t>& places) {
  std::vector<double> result;
  for (const size_t place : places) result.push_back(values[place]);
  return result;
}

}  // namespace

absl::StatusOr<at::Tensor> GroupNormalizedAdvantages(const at::Tensor& rewards,
                                                     const at::Tensor& group_id,
                                                     const GroupNormalization& options) {
  const auto grouped = GroupRewards(rewards, group_id);
  if (!grouped.ok()) return grouped.status();
  const double batch_std = MomentsOf(grouped->rewards).std;
  std::vector<double> advantages(grouped->rewards.size(), 0.0);
  for (const auto& [id, places] : grouped->members) {
    const Moments group = MomentsOf(At(grouped->rewards, places));
    if (group.constant) continue;
    double divisor = 1;
    if (options.normalization == v1::ADVANTAGE_NORMALIZATION_GROUP_STD) {
      divisor = group.std + options.epsilon;
    } else if (options.normalization == v1::ADVANTAGE_NORMALIZATION_BATCH_STD) {
      divisor = batch_std + options.epsilon;
    }
    for (const size_t i : places) advantages[i] = (grouped->rewards[i] - group.mean) / divisor;
  }
  return FromDoubles(rewards, advantages);
}

absl::StatusOr<at::Tensor> LeaveOneOutAdvantages(const at::Tensor& rewards,
                                                 const at::Tensor& group_id) {
  const auto grouped = GroupRewards(rewards, group_id);
  if (!grouped.ok()) return grouped.status();
  std::vector<double> advantages(grouped->rewards.size(), 0.0);
  for (const auto& [id, places] : grouped->members) {
    const Moments group = MomentsOf(At(grouped->rewards, places));
    if (group.constant) continue;
    const auto n = static_cast<double>(places.size());
    for (const size_t i : places) advantages[i] = (grouped->rewards[i] - group.mean) * n / (n - 1);
  }
  return FromDoubles(rewards, advantages);
}

absl::StatusOr<at::Tensor> LengthWeightedAdvantages(const at::Tensor& rewards,
                                                    const at::Tensor& group_id,
                                                    const at::Tensor& lengths) {
  const auto grouped = GroupRewards(rewards, group_id);
  if (!grouped.ok()) return grouped.status();
  const std::vector<double> tokens = ToDoubles(lengths);
  if (tokens.size() != grouped->rewards.size()) {
    return absl::InvalidArgumentError("length-weighted advantages need one length per reward");
  }
  std::vector<double> advantages(grouped->rewards.size(), 0.0);
  for (const auto& [id, places] : grouped->members) {
    if (MomentsOf(At(grouped->rewards, places)).constant) continue;
    double weighted = 0, total = 0;
    for (const size_t i : places) {
      weighted += tokens[i] * grouped->rewards[i];
      total += tokens[i];
    }
    if (total == 0) continue;
    for (const size_t i : places) advantages[i] = grouped->rewards[i] - weighted / total;
  }
  return FromDoubles(rewards, advantages);
}

at::Tensor GreedyBaselineAdvantages(const at::Tensor& rewards, const at::Tensor& baselines) {
  return rewards.sub(baselines);
}

at::Tensor BatchNormalized(const at::Tensor& advantages, double epsilon) {
  std::vector<double> values = ToDoubles(advantages);
  const Moments moments = MomentsOf(values);
  for (double& value : values) {
    value = moments.constant ? 0.0 : (value - moments.mean) / (moments.std + epsilon);
  }
  return FromDoubles(advantages, values);
}

}  // namespace rollcall::learner
