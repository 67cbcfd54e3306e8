#pragma once

#include <cstdint>

#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"
#include "services/cli/explain/warnings.h"

namespace rollcall::explain {

// Stage rlaif: its steps with their samples and calls, then objective, batches and models of each training stage by itself.
// `prompts`: rows of the training files, 0 where they are not known. Reads the constitution, where it is on this machine.
Explanation ExplainChain(const v1::RunConfig& config, const ModelFacts& model, uint64_t prompts);

}  // namespace rollcall::explain
