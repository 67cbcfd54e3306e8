#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace rollcall::cli {

// `argument`, or all of standard input where it is empty. INVALID_ARGUMENT where that is a
// terminal: "generate: give a prompt, or pipe it into standard input".
absl::StatusOr<std::string> ArgumentOrStandardInput(const std::string& argument,
                                                    const std::string& command,
                                                    const std::string& what);

// The file at `path`, or all of standard input where `path` is empty or "-".
absl::StatusOr<std::string> FileOrStandardInput(const std::string& path, const std::string& command,
                                                const std::string& what);

}  // namespace rollcall::cli
