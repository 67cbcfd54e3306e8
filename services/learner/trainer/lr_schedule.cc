#include "services/learner/trainer/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "services/learner/trainer/written_number.h"

namespace rollcall::learner {

double LearningRateAt(const v1::OptimizerSection& optimizer, uint64_t step, uint64_t total_steps) {
  const double peak = WrittenNumber(optimizer.lr());
  const uint64_t warmup = optimizer.warmup_steps();
  if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  if (optimizer.schedule() != v1::LR_SCHEDULE_COSINE) return peak;
  if (total_steps <= warmup) return peak;
  const double progress =
      std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(total_steps - warmup));
  const double floor = WrittenNumber(optimizer.min_lr_ratio());
  return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace rollcall::learner
