#include "services/cli/commands/reporting.h"

#include <cstdio>
#include <string>

#include "common/base/shutdown.h"

namespace rollcall::cli {

int Report(const absl::Status& status) {
  if (status.ok()) return kExitClean;
  std::fflush(stdout);
  std::fprintf(stderr, "rollcall: %s\n", std::string(status.message()).c_str());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
      return kExitUsage;
    default:
      return kExitFailure;
  }
}

}  // namespace rollcall::cli
