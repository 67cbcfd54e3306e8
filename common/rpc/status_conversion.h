#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace rollcall::rpc {

// Between absl::Status inside a process and grpc::Status between processes. Codes are equal;
// payloads travel as google.rpc.Status details (the standard grpc-status-details-bin), one Any
// each, and come back under the same type URL. A message too long for a trailer (kMaxStatusBytes)
// is cut with a mark, and details too long are left out: gRPC would replace the whole status with a
// complaint about the metadata's size.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace rollcall::rpc
