#include "services/generator/engine/version_check.h"

#include "absl/strings/str_cat.h"

namespace rollcall::generator {

absl::Status CheckVersion(const std::optional<v1::PolicyVersion>& min_version,
                          const std::optional<v1::PolicyVersion>& held) {
  if (!held.has_value()) {
    return absl::FailedPreconditionError("no weights yet: none was loaded or committed");
  }
  if (!min_version.has_value()) return absl::OkStatus();
  if (min_version->run_id() != held->run_id()) {
    return absl::FailedPreconditionError(absl::StrCat("min_version.run_id: wanted '",
                                                      min_version->run_id(), "', holding '",
                                                      held->run_id(), "'"));
  }
  if (min_version->lineage() != held->lineage()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "min_version.lineage: wanted ", min_version->lineage(), ", holding ", held->lineage()));
  }
  if (min_version->step() > held->step()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "min_version.step: wanted at least ", min_version->step(), ", holding ", held->step()));
  }
  return absl::OkStatus();
}

}  // namespace rollcall::generator
