#pragma once

#include <ostream>
#include <span>
#include <string>

namespace rollcall::inspect {

// `rollcall inspect MODEL [--dtype D] [--tokens N] [--device cpu|cuda] [--json]`: what a model
// folder holds, and the memory to serve it and to train it, with the arithmetic. `arguments` are
// those after "inspect".
//
// Returns the exit code: 0 described, 1 the folder cannot be read, 2 wrong usage.
int RunInspect(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors);

}  // namespace rollcall::inspect
