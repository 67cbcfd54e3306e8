#include "services/cli/commands/text_input.h"

#include <unistd.h>

#include <iostream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace rollcall::cli {
namespace {

absl::StatusOr<std::string> StandardInput(const std::string& command, const std::string& what) {
  if (isatty(STDIN_FILENO) == 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(command, ": give ", what, ", or pipe it into standard input"));
  }
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

}  // namespace

absl::StatusOr<std::string> ArgumentOrStandardInput(const std::string& argument,
                                                    const std::string& command,
                                                    const std::string& what) {
  if (!argument.empty()) return argument;
  return StandardInput(command, what);
}

absl::StatusOr<std::string> FileOrStandardInput(const std::string& path, const std::string& command,
                                                const std::string& what) {
  if (!path.empty() && path != "-") return ReadFile(path);
  return StandardInput(command, what);
}

}  // namespace rollcall::cli
