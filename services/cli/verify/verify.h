#pragma once

#include <ostream>
#include <span>
#include <string>

namespace rollcall::verify {

// `rollcall verify DIR [--suite NAME]… [--device D] [--json]`: runs the suites over a folder of
// golden numbers and prints one finding a line to `out` (problems with the call itself to
// `errors`). `arguments` are those after "verify".
//
// Returns the exit code: 0 nothing failed, 1 something did, 2 wrong usage.
int RunVerify(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors);

}  // namespace rollcall::verify
