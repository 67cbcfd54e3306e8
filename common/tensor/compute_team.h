#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"

namespace rollcall::tensor {

// The threads that compute together with the calling one: at::get_num_threads() - 1 of them, made
// when first needed. A thread that owns a model has a team of its own.
//
// What OpenMP's teams are not: nobody here waits for a thread that has not begun. Between two
// products of a small model lie microseconds, and with OpenMP each product waits until every thread
// was woken, also where another process has its core.

// Calls work() on the calling thread and, at the same time, at most once on each other thread of the
// team; returns when every call that began has returned. Threads that come late do not call at all, so
// any one call must be able to finish what there is to do, as a loop over a shared counter is. An
// exception of any call is thrown here. Inside of a call, InTeam() is true and no team may run.
void RunOnTeam(absl::FunctionRef<void()> work);
bool InTeam();

// Makes the calling thread's team of `threads`, itself included, now; its i-th thread is bound to
// cores[i], where there are cores, and the calling one is not. The threads inherit the mask that the
// caller has.
void StartTeam(uint32_t threads, const std::vector<int>& cores);

}  // namespace rollcall::tensor
