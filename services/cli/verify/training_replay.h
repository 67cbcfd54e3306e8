#pragma once

#include <ATen/core/TensorBody.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/report.h"

namespace rollcall::verify {

// Replays the training part of a model case on the packed path: the gradient of the token-mean
// cross-entropy over all sequences, then steps of the learner's AdamW with the recorded settings,
// comparing losses, norms, gradients and the parameters at the end. Changes the runner's
// parameters.
absl::Status ReplayTraining(ModelRunner& runner, const std::vector<at::Tensor>& sequences,
                            const nlohmann::json& expected, const GoldenTensors& tensors,
                            Report& report);

}  // namespace rollcall::verify
