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

// The gradients of a reward or value model on the packed path: of the sum over sequences of
// (values * cotangent), with the case's seq{i}.cotangent.
absl::Status CompareValueGradients(ModelRunner& runner, const std::vector<at::Tensor>& sequences,
                                   const nlohmann::json& expected, const GoldenTensors& tensors,
                                   Report& report);

}  // namespace rollcall::verify
