#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace rollcall::learner {

// The value of a column of a JSONL row, nullptr where the row has none. `name` is a column's name
// or a path of names joined by dots into nested objects ("reward_model.ground_truth"); a column
// whose own name has the dots comes first. Verifiers find columns by the same rule.
const nlohmann::json* FindColumn(const nlohmann::json& row, const std::string& name);

}  // namespace rollcall::learner
