#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace grpc {
class Channel;
}

namespace rollcall::rpc {

// Asks the standard health service (grpc.health.v1) whether the peer serves; `service` empty asks
// for the server as a whole, which is what our servers report. Blocks until the answer or the
// deadline. UNAVAILABLE or DEADLINE_EXCEEDED: not reached; UNIMPLEMENTED: it has no health service.
absl::StatusOr<bool> CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                                 const std::string& service, absl::Time deadline);

}  // namespace rollcall::rpc
