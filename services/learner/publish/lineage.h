#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "rollcall/v1/checkpoint.pb.h"

namespace rollcall::learner {

// Opens the next lineage of the run in `run_folder` and makes it durable: reads
// <run_folder>/lineage, or begins a run (lineage 1, run id NAME-XXXXXXXX with 32 random bits) where
// there is none. Call before anything is published; from then on servers that have seen it refuse
// every earlier start of this run. DATA_LOSS: the record cannot be read; starting anew in its place
// would let two lineages share a number.
absl::StatusOr<v1::LineageRecord> OpenLineage(const std::string& run_folder,
                                              const std::string& name,
                                              Clock* clock = Clock::Real());

// The record as it is, without opening anything. NOT_FOUND: the run never started.
absl::StatusOr<v1::LineageRecord> ReadLineage(const std::string& run_folder);

// Whether `lineage` of `run_id` is still the newest start of its run; FAILED_PRECONDITION where
// another has been opened since, and this one must not write any more.
absl::Status CheckNewestLineage(const std::string& run_folder, const std::string& run_id,
                                uint64_t lineage);

}  // namespace rollcall::learner
