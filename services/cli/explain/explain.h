#pragma once

#include <string>

#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// What a run of `config`, which LoadRunConfig accepted, will do: objective, batches, memory and
// warnings. Reads the models' config.json files and counts the rows of the training files, where
// they are on this machine.
Explanation Explain(const v1::RunConfig& config);

// For a person.
std::string FormatText(const Explanation& explanation);
// One JSON object, with the numbers as numbers.
std::string FormatJson(const Explanation& explanation);

}  // namespace rollcall::explain
