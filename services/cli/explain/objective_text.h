#pragma once

#include <vector>

#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// What the stage minimises, with the numbers of `config` in the formulas of docs/objectives.md.
// `config` is complete: every cell of the algorithm has its value. Pure.
std::vector<Line> DescribeObjective(const v1::RunConfig& config);

// What each sum is divided by, in words. Pure.
std::vector<Line> DescribeDenominators(const v1::RunConfig& config);

// The name of an enum's value as YAML writes it: EnumName<v1::Stage>(v1::STAGE_SFT, "STAGE_") is
// "sft".
std::string LowerName(const std::string& value_name, const std::string& prefix);

}  // namespace rollcall::explain
