#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "common/tensor/named_tensor.h"

namespace rollcall::learner {

// Fills `parameters`, in place, from a file that checkpoint::SaveTensors wrote of the same ones.
// INVALID_ARGUMENT names the first that is missing or of another shape or dtype, and nothing was
// changed. LibTorch's exceptions pass through.
absl::Status LoadSavedParameters(const std::string& path,
                                 std::span<const tensor::NamedTensor> parameters);

}  // namespace rollcall::learner
