#include "services/learner/algorithms/reward_shaping.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

namespace rollcall::learner {

at::Tensor TokenRewards(const at::Tensor& scores, const at::Tensor& kl, const at::Tensor& mask,
                        std::span<const int64_t> lengths, double coefficient) {
  const at::Tensor rewards = kl.mul(-coefficient).mul(mask);
  int64_t begin = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    int64_t last = begin + lengths[i];
    while (last > begin && mask[last - 1].item<double>() == 0) --last;
    if (last > begin) rewards[last - 1].add_(scores[static_cast<int64_t>(i)]);
    begin += lengths[i];
  }
  return rewards;
}

double AdaptedKlCoefficient(double coefficient, double kl, double target, double horizon,
                            uint64_t sequences) {
  const double error = std::clamp(kl / target - 1, -0.2, 0.2);
  return coefficient * (1 + error * static_cast<double>(sequences) / horizon);
}

double OverlongPunishment(int64_t length, const OverlongOptions& options) {
  if (options.buffer <= 0) return 0;
  const int64_t beyond = length - (options.max_tokens - options.buffer);
  if (beyond <= 0) return 0;
  const double share = static_cast<double>(beyond) / static_cast<double>(options.buffer);
  return -options.factor * (options.bounded ? std::min(share, 1.0) : share);
}

}  // namespace rollcall::learner
