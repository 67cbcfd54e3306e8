#pragma once

#include <c10/core/Device.h>

#include <string_view>

#include "absl/status/statusor.h"

namespace rollcall::tensor {

// Makes a device ready and returns it: "cpu", "cuda" (the first GPU) or "cuda:N".
//
// Binaries link only libtorch_cpu, so one build runs with and without a GPU; asking for "cuda"
// opens libtorch_cuda.so at run time. LibTorch looks for CUDA once per process, at its first
// question about it, so a process that wants a GPU calls this before any other LibTorch call.
// Thread-safe; loading the library takes seconds the first time.
//
//   INVALID_ARGUMENT      not a device name
//   FAILED_PRECONDITION   no CUDA build of LibTorch, no driver, or no such GPU here; the message
//   says which
absl::StatusOr<c10::Device> OpenDevice(std::string_view name);

}  // namespace rollcall::tensor
