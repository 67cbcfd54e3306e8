#pragma once

#include <grpcpp/client_context.h>

#include <optional>

#include "absl/time/time.h"

namespace rollcall::rpc {

// How long the server of a call that failed asked to be left alone, by the trailer `retry-after-ms`;
// nullopt where it did not, or wrote no number of milliseconds there.
std::optional<absl::Duration> RetryAfter(const grpc::ClientContext& context);

}  // namespace rollcall::rpc
