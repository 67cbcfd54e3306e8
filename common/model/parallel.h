#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace rollcall::model {

// Runs task(i, scratch) for each i in [0, count) on the calling thread's team (tensor::RunOnTeam);
// tasks are handed out one by one, so uneven ones balance. scratch: 64-byte aligned, at least
// `scratch_floats` floats, this thread's own, contents undefined. `work` is the number of
// multiply-adds of all tasks together: little work stays on the calling thread. Tasks must write
// disjoint outputs and may run in any order; the result then cannot depend on the thread count.
void ParallelTasks(int64_t count, int64_t scratch_floats, int64_t work,
                   absl::FunctionRef<void(int64_t task, float* scratch)> task);

// The same for contiguous ranges of [0, count), each a multiple of `grain` long except the last.
void ParallelRanges(int64_t count, int64_t grain, int64_t work,
                    absl::FunctionRef<void(int64_t begin, int64_t end)> task);

}  // namespace rollcall::model
