#pragma once

#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::tensor {

// The status of the exception being handled; call it only inside a catch block.
//   RESOURCE_EXHAUSTED   no memory on the host or the device
//   INVALID_ARGUMENT     LibTorch refused an index, a value or a type
//   UNIMPLEMENTED        the operation has no kernel for this device or dtype
//   INTERNAL             everything else
// The message is the first line of LibTorch's own, without its backtrace.
absl::Status StatusOfCurrentException();

namespace internal {

template <typename T>
struct IsStatusOr : std::false_type {};
template <typename T>
struct IsStatusOr<absl::StatusOr<T>> : std::true_type {};

}  // namespace internal

// Runs `fn`, which may call LibTorch, and turns whatever it throws into a status. This is the one
// place where LibTorch's exceptions end: every engine thread and every RPC handler that touches
// tensors goes through it.
//
// fn() -> void or absl::Status         returns absl::Status
// fn() -> T or absl::StatusOr<T>       returns absl::StatusOr<T>
template <typename Fn>
auto TorchCall(Fn&& fn) {
  using Result = std::invoke_result_t<Fn>;
  if constexpr (std::is_void_v<Result>) {
    try {
      std::forward<Fn>(fn)();
      return absl::OkStatus();
    } catch (...) {
      return StatusOfCurrentException();
    }
  } else {
    using Returned = std::conditional_t<std::is_same_v<Result, absl::Status> ||
                                            internal::IsStatusOr<Result>::value,
                                        Result, absl::StatusOr<Result>>;
    try {
      return Returned(std::forward<Fn>(fn)());
    } catch (...) {
      return Returned(StatusOfCurrentException());
    }
  }
}

}  // namespace rollcall::tensor
