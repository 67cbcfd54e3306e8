#pragma once

#include "absl/status/status.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::model {

// Makes this process compute with the instruction set that kernels.isa pins, or, for auto, with the
// widest that the processor runs. For a service's start, before its first kernel.
// FAILED_PRECONDITION names the field, what the processor lacks and what it has. INVALID_ARGUMENT: a
// value this build does not know.
absl::Status ChooseKernels(const v1::KernelsSection& kernels);

}  // namespace rollcall::model
