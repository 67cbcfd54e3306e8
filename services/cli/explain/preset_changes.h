#pragma once

#include <vector>

#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// The cells of the algorithm that are not what its preset's row says: {"kl_coefficient", "0.01
// (grpo: 0.04)"}. Cells that every run chooses for itself, such as samples_per_prompt, are among
// them. Pure.
std::vector<Line> ChangedCells(const v1::AlgorithmSection& algorithm);

}  // namespace rollcall::explain
