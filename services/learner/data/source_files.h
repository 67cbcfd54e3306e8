#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/data/jsonl_file.h"
#include "services/learner/data/mixture_order.h"
#include "services/learner/data/row_policy.h"

namespace rollcall::learner {

// What becomes of one row of the source with that index: OK when it was kept, or left out and
// counted.
using OnSourceRow =
    std::function<absl::Status(int source, const RowPlace& place, const nlohmann::json& row)>;

// Reads the files of `sources` in turn through `on_row`, lines that are no JSON object through
// `policy`. `kept` returns how many rows are kept so far. Returns each file's rows and weight, or
// nothing where no file has a weight. INVALID_ARGUMENT: weights on some files only, a weighted file
// of which no row is kept, or no row kept at all; else the statuses of ForEachJsonRow and `on_row`.
absl::StatusOr<std::vector<SourceRows>> ReadSources(
    const google::protobuf::RepeatedPtrField<v1::DataSource>& sources, RowPolicy& policy,
    const OnSourceRow& on_row, const std::function<uint64_t()>& kept);

}  // namespace rollcall::learner
