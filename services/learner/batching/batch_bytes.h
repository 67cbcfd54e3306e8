#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// A batch as rank 0 sends it to the others, which run the same program: every field, numbers as they
// lie in memory. No format for files.
std::string EncodeBatch(const TrainBatch& batch);

// DATA_LOSS: not what EncodeBatch wrote.
absl::StatusOr<TrainBatch> DecodeBatch(std::string_view bytes);

}  // namespace rollcall::learner
