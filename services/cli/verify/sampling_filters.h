#pragma once

#include <string>

#include "absl/status/status.h"
#include "services/cli/verify/report.h"

namespace rollcall::verify {

// Compares the generator's penalties and truncation (top-k, top-p, min-p at a temperature) with the
// distributions recorded in stem.json and stem.safetensors, one pair of findings for each
// combination of settings.
absl::Status CompareFilters(const std::string& stem, Report& report);

}  // namespace rollcall::verify
