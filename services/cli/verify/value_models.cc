#include "services/cli/verify/value_models.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/cli/verify/path_equality.h"
#include "services/cli/verify/training_replay.h"

// Tolerances: shared/data/golden/README.md, table of section "models".
namespace rollcall::verify {
namespace {

constexpr double kValueTolerance = 1e-4;  // absolute

// The largest errors over the sequences.
struct ValueErrors {
  double values = 0, reward = 0, padded = 0;
};

// right_padded.logits: the reference's run of all sequences as one padded batch, [n, 1] rewards or
// [n, longest, 1] values, those behind a sequence's end meaning nothing.
absl::StatusOr<at::Tensor> PaddedRow(const ModelCase& golden, bool reward, size_t i) {
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor logits, Golden(golden.tensors, "right_padded.logits"));
  if (logits.dim() != (reward ? 2 : 3) || logits.size(0) <= static_cast<int64_t>(i)) {
    return absl::InvalidArgumentError("right_padded.logits: not the shape of this head");
  }
  const at::Tensor row = logits[static_cast<int64_t>(i)];
  if (reward) return row;
  const int64_t tokens = golden.sequences[i].size(0);
  if (row.size(0) < tokens) {
    return absl::InvalidArgumentError("right_padded.logits: shorter than a sequence");
  }
  return row.narrow(0, 0, tokens).squeeze(1);
}

absl::Status CompareValues(ModelRunner& runner, const ModelCase& golden, ForwardPath path,
                           bool reward, Report& report) {
  const at::NoGradGuard no_grad;
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden,
                            runner.Hidden(path, golden.sequences));
  ValueErrors errors;
  for (size_t i = 0; i < hidden.size(); ++i) {
    const at::Tensor values = runner.Values(hidden[i]);
    const at::Tensor last = values.narrow(0, values.size(0) - 1, 1);
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor expected,
                              Golden(golden.tensors, absl::StrCat("seq", i, ".values")));
    errors.values = std::max(errors.values, LargestDifference(values, expected));
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor padded, PaddedRow(golden, reward, i));
    errors.padded = std::max(errors.padded, LargestDifference(reward ? last : values, padded));
    if (!reward) continue;
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor expected_reward,
                              Golden(golden.tensors, absl::StrCat("seq", i, ".reward")));
    errors.reward = std::max(errors.reward, LargestDifference(last, expected_reward));
  }
  const std::string name = NameOf(path);
  report.Compare(name + ": values", errors.values, kValueTolerance);
  if (reward) report.Compare(name + ": rewards", errors.reward, kValueTolerance);
  report.Compare(name + ": right-padded batch", errors.padded, kValueTolerance);
  return absl::OkStatus();
}

}  // namespace

absl::Status CompareValueModel(ModelRunner& runner, const std::string& folder,
                               const ModelCase& golden, Report& report) {
  const bool reward = runner.decoder().config().head == model::Head::kSequenceScore;
  for (const ForwardPath path : kForwardPaths) {
    ROLLCALL_RETURN_IF_ERROR(CompareValues(runner, golden, path, reward, report));
  }
  const auto values = [](ModelRunner& either, const at::Tensor& hidden,
                         const at::Tensor&) -> absl::StatusOr<at::Tensor> {
    return either.Values(hidden);
  };
  ROLLCALL_RETURN_IF_ERROR(
      ComparePaths(runner, folder, golden.sequences, "values", values, report));
  return CompareValueGradients(runner, golden.sequences, golden.expected, golden.tensors, report);
}

}  // namespace rollcall::verify
