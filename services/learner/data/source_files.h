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

// What becomes of one row, or of a line that is none, of the source with that index: OK when it was
// kept, or left out and counted.
using OnSourceRow = std::function<absl::Status(int source, const RowPlace& place,
                                               const absl::StatusOr<nlohmann::json>& row)>;

// Whether the sources have weights. INVALID_ARGUMENT: on some only, or one is not above 0.
absl::StatusOr<bool> HaveWeights(const google::protobuf::RepeatedPtrField<v1::DataSource>& sources);

// Reads the files of `sources`, JSONL or Parquet, in turn through `on_row`. `kept` returns how many
// rows are kept so far. Returns each file's rows and weight, or nothing where no file has a weight. INVALID_ARGUMENT: weights on some files only, a weighted file
// of which no row is kept, or no row kept at all (`policy` says why); else the statuses of
// ForEachJsonRow, ForEachParquetRow and `on_row`.
absl::StatusOr<std::vector<SourceRows>> ReadSources(
    const google::protobuf::RepeatedPtrField<v1::DataSource>& sources, const RowPolicy& policy,
    const OnSourceRow& on_row, const std::function<uint64_t()>& kept);

}  // namespace rollcall::learner
