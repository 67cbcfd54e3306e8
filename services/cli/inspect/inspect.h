#pragma once

#include <ostream>
#include <span>
#include <string>

namespace rollcall::inspect {

// `rollcall inspect MODEL [--adapter DIR] [--dtype D] [--tokens N] [--device cpu|cuda] [--json]`: what a
// model folder holds, and a low-rank adapter for it, and the memory to serve it and to train it (the
// adapter alone, where there is one), with the arithmetic. `arguments` are
// those after "inspect".
//
// Returns the exit code: 0 described, 1 the folder cannot be read, 2 wrong usage.
int RunInspect(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors);

}  // namespace rollcall::inspect
