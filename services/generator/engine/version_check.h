#pragma once

#include <optional>

#include "absl/status/status.h"
#include "rollcall/v1/identity.pb.h"

namespace rollcall::generator {

// Whether the weights held serve a request that asks for `min_version`: the same run, the same
// lineage, and at least its step; any weights where it asks for none. FAILED_PRECONDITION names the
// field that differs.
absl::Status CheckVersion(const std::optional<v1::PolicyVersion>& min_version,
                          const std::optional<v1::PolicyVersion>& held);

}  // namespace rollcall::generator
