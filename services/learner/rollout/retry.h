#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace rollcall::learner {

// How one remote call ended.
struct CallOutcome {
  absl::Status status;
  // From the `retry-after-ms` trailer.
  std::optional<absl::Duration> retry_after;
};

// Whether asking again may help. Refused arguments and permissions stay refused.
inline bool IsRetryable(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kOutOfRange:
      return false;
    default:
      return true;
  }
}

// A full queue is back-pressure, not a fault: it uses up no attempt. The stall detector bounds how
// long it can last.
inline bool IsBackPressure(const absl::Status& status) { return absl::IsResourceExhausted(status); }

// Before try number `failures` + 1: what the server asked for, or 0.1 s doubling up to 5 s. A
// service that restarts takes seconds; five attempts (the default) cover 0.1 + 0.2 + 0.4 + 0.8 s
// and the connection itself is waited for beyond that.
inline absl::Duration Backoff(uint32_t failures, std::optional<absl::Duration> asked) {
  constexpr absl::Duration kLongest = absl::Seconds(5);
  if (asked) return std::clamp(*asked, absl::ZeroDuration(), kLongest);
  const uint32_t doublings = failures < 1 ? 0 : (failures > 7 ? 6 : failures - 1);
  return std::min(absl::Milliseconds(100) * (1 << doublings), kLongest);
}

}  // namespace rollcall::learner
