#pragma once

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"

namespace at {
class Tensor;
}

namespace rollcall::learner {

struct GroupNormalization {
  // Whether the centred reward is divided by the group's standard deviation.
  v1::AdvantageNormalization normalization = v1::ADVANTAGE_NORMALIZATION_GROUP_STD;
  // Added to the standard deviation. TRL takes 1e-4, verl 1e-6, OpenRLHF 1e-9.
  double epsilon = 1e-4;
};

// Group-relative advantages.
//
// rewards:  [sequences], float32 or float64, finite, on the CPU
// group_id: [sequences], int64; sequences with equal ids form a group, wherever they stand
// Returns   [sequences], of the rewards' dtype:
//   group_std   (r - mean_g) / (std_g + epsilon): DeepSeekMath, arXiv 2402.03300, section 4.1.2
//   group_mean  r - mean_g:                       Dr. GRPO, arXiv 2503.20783, section 3.2
// and exactly 0 in a group whose rewards are all equal, found by max - min: float32 residue of the
// mean can make the standard deviation slightly above 0.
//
// std_g divides by n - 1, as TRL and verl do. Sums run in float64 over each group's sorted rewards,
// so the order of the sequences never shows in the result. INVALID_ARGUMENT names the first group
// of one and the first reward that is not finite.
absl::StatusOr<at::Tensor> GroupNormalizedAdvantages(const at::Tensor& rewards,
                                                     const at::Tensor& group_id,
                                                     const GroupNormalization& options);

}  // namespace rollcall::learner
