#pragma once

#include <span>
#include <string>

#include "absl/status/status.h"
#include "common/model/decoder.h"
#include "common/tensor/named_tensor.h"
#include "services/learner/trainer/process_group.h"

namespace rollcall::learner {

// Fills `parameters`, in place, from a file that checkpoint::SaveTensors wrote of the same ones.
// INVALID_ARGUMENT names the first that is missing or of another shape or dtype, and nothing was
// changed. LibTorch's exceptions pass through.
absl::Status LoadSavedParameters(const std::string& path,
                                 std::span<const tensor::NamedTensor> parameters);

// Makes the trainable parameters of `decoder` on every rank those of rank 0. Collective.
absl::Status ShareParameters(ProcessGroup& group, model::Decoder& decoder);

}  // namespace rollcall::learner
