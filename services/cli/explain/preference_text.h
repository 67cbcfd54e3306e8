#pragma once

#include <vector>

#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// The loss of stages dpo, simpo, orpo and kto with its numbers, and what it is divided by.
std::vector<Line> DescribePreferences(const v1::RunConfig& config);
std::vector<Line> PreferenceDenominators(const v1::RunConfig& config);

}  // namespace rollcall::explain
