#pragma once

#include <cstdint>

#include "rollcall/v1/config.pb.h"

namespace rollcall::learner {

// Learning rate of training step `step` (counted from 1) of `total_steps`: linear from 0 over
// warmup_steps (the last of them has the full rate), then constant, or down half a cosine to
// min_lr_ratio * lr at the last step. Past the last step the cosine stays at its end.
double LearningRateAt(const v1::OptimizerSection& optimizer, uint64_t step, uint64_t total_steps);

}  // namespace rollcall::learner
