#pragma once

#include <cstdint>
#include <vector>

#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// What the rules ask of the model; 0: not known, and the rules that need it say nothing.
struct ModelFacts {
  uint64_t context = 0;             // longest sequence, tokens
  uint64_t kv_bytes_per_token = 0;  // in the generators' cache
};

// Combinations that a run may have and that are known to train badly or to mislead. What cannot
// work at all is no warning: config::FindViolations refuses it. Pure.
std::vector<Warning> FindWarnings(const v1::RunConfig& config, const ModelFacts& model);

}  // namespace rollcall::explain
