#pragma once

#include <google/protobuf/struct.pb.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "services/learner/data/jsonl_file.h"

namespace rollcall::learner {

// The columns of a row as verifiers see them, without those in `left_out`. A Struct holds numbers
// as float64: an integer that float64 cannot represent exactly is INVALID_ARGUMENT (write it as a
// string), as is nesting deeper than 64.
absl::StatusOr<google::protobuf::Struct> ColumnsOf(const RowPlace& place, const nlohmann::json& row,
                                                   const std::set<std::string>& left_out);

}  // namespace rollcall::learner
