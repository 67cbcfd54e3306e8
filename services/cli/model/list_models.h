#pragma once

#include <ostream>
#include <span>
#include <string>

namespace rollcall::cli {

// `rollcall models [--json]`: the model families of this build, one line each, from the table that
// ModelConfig::FromJson reads by. `arguments` are those after "models". Returns the exit code.
int RunModels(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors);

}  // namespace rollcall::cli
