#pragma once

#include <ATen/core/TensorBody.h>

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/report.h"

namespace rollcall::verify {

// What a model says of one sequence, from the sequence's hidden rows.
using OutputsOf = absl::FunctionRef<absl::StatusOr<at::Tensor>(
    ModelRunner& runner, const at::Tensor& hidden, const at::Tensor& sequence)>;

// What exact mode rests on: the outputs along both paths are the same bits, with gradients on, in
// the runner's float32 and in bfloat16. Compares nothing where a model runs on LibTorch's
// operations, which promise no such thing. `what` names the outputs in the report.
absl::Status ComparePaths(ModelRunner& runner, const std::string& folder,
                          const std::vector<at::Tensor>& sequences, const std::string& what,
                          OutputsOf outputs, Report& report);

}  // namespace rollcall::verify
