#pragma once

#include <string>

#include "rollcall/v1/rollout.pb.h"

namespace rollcall::learner {

// Name of the filter in v1::Filtered.
inline constexpr char kZeroVariance[] = "zero_variance";

// DAPO's dynamic sampling, arXiv 2503.14476, equation 11: whether the group says nothing because
// all of its samples have the same reward. Judged on what the verifiers gave, before any punishment
// of length and before clipping; on the component `metric`, or on the composed reward where that is
// empty. Samples without it are not looked at; a group where none has it says nothing either. Pure.
bool HasZeroVariance(const v1::Group& group, const std::string& metric);

}  // namespace rollcall::learner
