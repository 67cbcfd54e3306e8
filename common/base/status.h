#pragma once

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Early return of errors, for functions that return absl::Status or absl::StatusOr.
//
//   ROLLCALL_RETURN_IF_ERROR(file.Sync());
//   ROLLCALL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
//   ROLLCALL_RETURN_IF_ERROR(Annotate(Parse(text), path));

#define ROLLCALL_INTERNAL_CONCAT2(a, b) a##b
#define ROLLCALL_INTERNAL_CONCAT(a, b) ROLLCALL_INTERNAL_CONCAT2(a, b)

#define ROLLCALL_RETURN_IF_ERROR(...)                                                        \
  ROLLCALL_INTERNAL_RETURN_IF_ERROR(ROLLCALL_INTERNAL_CONCAT(rollcall_status_, __COUNTER__), \
                                    __VA_ARGS__)
#define ROLLCALL_INTERNAL_RETURN_IF_ERROR(status, ...)         \
  do {                                                         \
    if (::absl::Status status = (__VA_ARGS__); !status.ok()) { \
      return status;                                           \
    }                                                          \
  } while (false)

// `lhs` may declare a variable. It declares a temporary, so it cannot be the unbraced body of an
// `if`.
#define ROLLCALL_ASSIGN_OR_RETURN(lhs, ...)                                                        \
  ROLLCALL_INTERNAL_ASSIGN_OR_RETURN(ROLLCALL_INTERNAL_CONCAT(rollcall_result_, __COUNTER__), lhs, \
                                     __VA_ARGS__)
#define ROLLCALL_INTERNAL_ASSIGN_OR_RETURN(result, lhs, ...) \
  auto result = (__VA_ARGS__);                               \
  if (!result.ok()) {                                        \
    return std::move(result).status();                       \
  }                                                          \
  lhs = *std::move(result)

namespace rollcall {

// The same code and payloads with the message "prefix: message"; OK stays OK.
absl::Status Annotate(absl::Status status, std::string_view prefix);

template <typename T>
absl::StatusOr<T> Annotate(absl::StatusOr<T> result, std::string_view prefix) {
  if (result.ok()) return result;
  return Annotate(std::move(result).status(), prefix);
}

}  // namespace rollcall
