#pragma once

#include <cstdint>
#include <vector>

#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// context: longest sequence of the model, tokens; 0: not known. Pure.
BatchArithmetic CountBatch(const v1::RunConfig& config, uint64_t context);

// The same for a person. training_rows: rows of the training files; 0: not known. Pure.
std::vector<Line> DescribeBatch(const v1::RunConfig& config, const BatchArithmetic& batch,
                                uint64_t training_rows);

}  // namespace rollcall::explain
