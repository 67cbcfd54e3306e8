#pragma once

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"

namespace at {
class Tensor;
}

// Advantages of whole sequences from their rewards, one function an estimator. In all of them:
//
// rewards:  [sequences], float32 or float64, finite, on the CPU
// group_id: [sequences], int64; sequences with equal ids form a group, wherever they stand
// Returns   [sequences], of the rewards' dtype
//
// Sums run in float64 over each group's members in ascending order of reward, so the order of the
// sequences never shows in the result. INVALID_ARGUMENT names the first group of one and the first
// reward that is not finite. Pure and thread-safe.
namespace rollcall::learner {

struct GroupNormalization {
  // What the centred reward is divided by: group_std, group_mean or none (nothing), batch_std.
  v1::AdvantageNormalization normalization = v1::ADVANTAGE_NORMALIZATION_GROUP_STD;
  // Added to the standard deviation. TRL takes 1e-4, verl 1e-6, OpenRLHF 1e-9.
  double epsilon = 1e-4;
};

// Group-relative advantages:
//   group_std         (r - mean_g) / (std_g + epsilon): DeepSeekMath, arXiv 2402.03300, section 4.1.2
//   group_mean, none  r - mean_g:                       Dr. GRPO, arXiv 2503.20783, section 3.2
//   batch_std         (r - mean_g) / (std of all rewards + epsilon): Lite PPO, arXiv 2508.08221
// and exactly 0 in a group whose rewards are all equal, found by max - min: float32 residue of the
// mean can make the standard deviation slightly above 0. Standard deviations divide by n - 1, as in
// TRL, verl and OpenRLHF.
absl::StatusOr<at::Tensor> GroupNormalizedAdvantages(const at::Tensor& rewards,
                                                     const at::Tensor& group_id,
                                                     const GroupNormalization& options);

// r - mean of the other members = n / (n - 1) * (r - mean_g): RLOO, arXiv 2402.14740, equation 8.
absl::StatusOr<at::Tensor> LeaveOneOutAdvantages(const at::Tensor& rewards,
                                                 const at::Tensor& group_id);

// r - sum(length * r) / sum(length), sums over the group: the baseline of least variance when a
// gradient's squared norm grows with its length. OPO, arXiv 2505.23585, equation 6.
//
// lengths: [sequences], int64, tokens in the loss. A group of empty completions has advantage 0.
absl::StatusOr<at::Tensor> LengthWeightedAdvantages(const at::Tensor& rewards,
                                                    const at::Tensor& group_id,
                                                    const at::Tensor& lengths);

// r - reward of the greedy completion of the same prompt: ReMax, arXiv 2310.10505, algorithm 1. Any
// group size. baselines: [sequences], of the rewards' dtype.
at::Tensor GreedyBaselineAdvantages(const at::Tensor& rewards, const at::Tensor& baselines);

// (a - mean) / (std + epsilon) over all sequences, std with n - 1: TRL's normalize_advantages. One
// sequence, or advantages that are all equal: 0.
at::Tensor BatchNormalized(const at::Tensor& advantages, double epsilon);

}  // namespace rollcall::learner
