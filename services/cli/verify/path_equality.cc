#include "services/cli/verify/path_equality.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/cli/verify/comparison.h"

namespace rollcall::verify {
namespace {

absl::StatusOr<double> LargestGap(ModelRunner& runner, const std::vector<at::Tensor>& sequences,
                                  OutputsOf outputs) {
  runner.decoder().SetRequiresGrad(true);
  ROLLCALL_ASSIGN_OR_RETURN(const auto packed, runner.Hidden(ForwardPath::kPacked, sequences));
  ROLLCALL_ASSIGN_OR_RETURN(const auto cached, runner.Hidden(ForwardPath::kCached, sequences));
  double largest = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor a, outputs(runner, packed[i], sequences[i]));
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor b, outputs(runner, cached[i], sequences[i]));
    largest = std::max(largest, LargestDifference(a, b));
  }
  runner.decoder().SetRequiresGrad(false);
  return largest;
}

}  // namespace

absl::Status ComparePaths(ModelRunner& runner, const std::string& folder,
                          const std::vector<at::Tensor>& sequences, const std::string& what,
                          OutputsOf outputs, Report& report) {
  if (runner.decoder().backend() != model::Backend::kKernels) return absl::OkStatus();
  const std::string claim = absl::StrCat(" ", what, ", packed = cached");
  ROLLCALL_ASSIGN_OR_RETURN(const double gap, LargestGap(runner, sequences, outputs));
  report.Compare("float32" + claim, gap, 0);
  ROLLCALL_ASSIGN_OR_RETURN(ModelRunner rounded,
                            ModelRunner::Open(folder, at::kBFloat16, runner.decoder().device()));
  ROLLCALL_ASSIGN_OR_RETURN(const double rounded_gap, LargestGap(rounded, sequences, outputs));
  report.Compare("bfloat16" + claim, rounded_gap, 0);
  return absl::OkStatus();
}

}  // namespace rollcall::verify
