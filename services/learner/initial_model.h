#pragma once

#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::learner {

// The initial policy of model.path in the compute dtype and on the device of the `model` section;
// sets LibTorch's thread count for the calling thread, which owns the decoder from then on.
// Statuses of the folder's readers, each naming file and field. Blocks on the disk.
absl::StatusOr<model::Decoder> LoadInitialModel(const v1::RunConfig& config);

}  // namespace rollcall::learner
