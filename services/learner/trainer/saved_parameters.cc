#include "services/learner/trainer/saved_parameters.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"

namespace rollcall::learner {

absl::Status LoadSavedParameters(const std::string& path,
                                 std::span<const tensor::NamedTensor> parameters) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto saved, checkpoint::LoadTensors(path));
  for (const auto& [name, parameter] : parameters) {
    const auto found = saved.find(name);
    if (found == saved.end() || found->second.sizes() != parameter.sizes() ||
        found->second.scalar_type() != parameter.scalar_type()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", name, ": missing, or of another shape or dtype"));
    }
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters) parameter.copy_(saved.at(name));
  return absl::OkStatus();
}

absl::Status ShareParameters(ProcessGroup& group, model::Decoder& decoder) {
  if (group.size() == 1) return absl::OkStatus();
  const at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : decoder.trainable_parameters()) {
    ROLLCALL_RETURN_IF_ERROR(Annotate(group.Broadcast(parameter), name));
  }
  decoder.InvalidatePacked();
  return absl::OkStatus();
}

}  // namespace rollcall::learner
