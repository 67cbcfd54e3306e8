#pragma once

#include <ATen/core/TensorBody.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/report.h"

namespace rollcall::verify {

// One case of the suite `models`: what NAME.expected.{json,safetensors} hold.
struct ModelCase {
  std::string name;
  nlohmann::json expected;
  GoldenTensors tensors;
  std::vector<at::Tensor> sequences;
};

// Compares a reward model (a value for each sequence) or a value model (one for each token) with
// its golden numbers: values on both paths and equal bits of the two, rewards, the batch that the
// reference padded, gradients. Changes the runner's parameters' gradients.
absl::Status CompareValueModel(ModelRunner& runner, const std::string& folder,
                               const ModelCase& golden, Report& report);

}  // namespace rollcall::verify
