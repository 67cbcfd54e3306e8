#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/limits.h"
#include "common/rpc/security.h"

namespace grpc {
class Channel;
}

namespace rollcall {
class Shutdown;
}

namespace rollcall::rpc {

struct ChannelOptions {
  // Methods that may be sent again after UNAVAILABLE, "rollcall.v1.LogProb/Score" each: only those
  // that the contract calls idempotent. Every other call is sent once (gRPC repeats a call only
  // where the server has provably not seen it).
  std::vector<std::string> retry_methods = {};
  Security security = {};
  int max_receive_bytes = kMaxMessageBytes;
  int max_send_bytes = kMaxMessageBytes;
  absl::Duration keepalive_time = kKeepaliveTime;
  absl::Duration keepalive_timeout = kKeepaliveTimeout;
};

// A channel to "unix:/path" or "host:port". Connects in the background, again and again; never
// blocks. A deadline is the caller's duty on every call. Proxies of the environment are not used.
// TCP is mutual TLS where `security` has an identity. INVALID_ARGUMENT: a malformed address or
// method; FAILED_PRECONDITION: plain text to another machine, which nobody has allowed.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(std::string_view address,
                                                       const ChannelOptions& options = {});

// Blocks until the channel is connected (the peer listens; whether it serves is CheckHealth's
// question). DEADLINE_EXCEEDED when it is not by then; CANCELLED as soon as `shutdown`, where
// given, is requested.
absl::Status WaitForReady(const std::shared_ptr<grpc::Channel>& channel, absl::Time deadline,
                          const Shutdown* shutdown = nullptr);

// The gRPC service config that retries exactly `methods`; "" for none. INVALID_ARGUMENT for a name
// that is not "package.Service/Method".
absl::StatusOr<std::string> RetryServiceConfig(const std::vector<std::string>& methods);

}  // namespace rollcall::rpc
