#pragma once

#include <vector>

#include "absl/status/status.h"
#include "services/learner/trainer/process_group.h"

namespace rollcall::learner {

// Completes per-sequence columns of which every rank has computed some: [sequences] each, empty
// where another rank has the numbers. Collective.
absl::Status ShareColumns(ProcessGroup& group, std::vector<std::vector<float>>& columns);

}  // namespace rollcall::learner
