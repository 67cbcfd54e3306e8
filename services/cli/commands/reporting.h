#pragma once

#include "absl/status/status.h"

namespace rollcall::cli {

// Prints a failure to stderr ("rollcall: …") and returns the exit code that fits it: 2 for what the
// user wrote (INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS), 1 for the rest, 0 for OK.
int Report(const absl::Status& status);

}  // namespace rollcall::cli
