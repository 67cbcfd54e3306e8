#pragma once

#include <nlohmann/json.hpp>

#include "common/base/philox.h"

namespace rollcall::model::testing {

// A small random config.json of one family, in either layout: sizes that fill no vector, grouped
// heads, windows, rope types, biases, experts, soft caps, heads, whatever the family offers.
nlohmann::json RandomConfigJson(const std::string& model_type, PhiloxStream& random);

}  // namespace rollcall::model::testing
