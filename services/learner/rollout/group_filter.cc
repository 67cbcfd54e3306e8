#include "services/learner/rollout/group_filter.h"

#include <optional>

namespace rollcall::learner {
namespace {

std::optional<double> ValueOf(const v1::RewardRecord& reward, const std::string& metric) {
  if (metric.empty()) {
    return reward.has_value() ? std::optional<double>(reward.value()) : std::nullopt;
  }
  const auto found = reward.components().find(metric);
  return found == reward.components().end() ? std::nullopt : std::optional<double>(found->second);
}

}  // namespace

bool HasZeroVariance(const v1::Group& group, const std::string& metric) {
  std::optional<double> first;
  for (const v1::Trajectory& trajectory : group.trajectories()) {
    const std::optional<double> value = ValueOf(trajectory.reward(), metric);
    if (!value.has_value()) continue;
    if (first.has_value() && *first != *value) return false;
    first = value;
  }
  return true;
}

}  // namespace rollcall::learner
