#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/limits.h"

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace rollcall::rpc {

class CallCounter;

struct ServerOptions {
  // "unix:/path" or "host:port"; port 0 for a free one.
  std::string address;
  // Whether the health service answers SERVING from the start.
  bool serving = true;
  int max_receive_bytes = kMaxMessageBytes;
  int max_send_bytes = kMaxMessageBytes;
  int max_concurrent_streams = kMaxConcurrentStreams;
  size_t max_memory_bytes = kMaxMemoryBytes;
  absl::Duration keepalive_time = kKeepaliveTime;
  absl::Duration keepalive_timeout = kKeepaliveTimeout;
};

// A gRPC server of callback services, with the standard health service and reflection. Thread-safe.
//
// A Unix socket is readable and writable by its owner only, and replaces one that a dead process
// has left. TCP is plain text: for one machine, or a network that encrypts.
class Server {
 public:
  // Listens and serves `services`, which must outlive the server. INVALID_ARGUMENT: a malformed
  // address; ALREADY_EXISTS: somebody listens on the Unix socket; UNAVAILABLE: the address cannot
  // be listened on, for instance because it is taken.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const std::vector<grpc::Service*>& services);

  // Cancels what still runs and waits for it, where Drain() was not called.
  ~Server();

  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Where clients reach it: the given address with the real port.
  const std::string& bound_address() const { return bound_address_; }

  // What the health service answers for the server as a whole; without effect once draining.
  void SetServing(bool serving);

  // Health says NOT_SERVING, no new call is taken, running calls may finish until `deadline` and
  // are cancelled then; returns when all have finished. DEADLINE_EXCEEDED when some had to be
  // cancelled. Streams of the health and reflection services do not hold it up: they are cancelled
  // once no other call runs. Call at most once.
  absl::Status Drain(absl::Time deadline);

 private:
  Server(std::unique_ptr<grpc::Server> server, std::shared_ptr<CallCounter> calls,
         std::string bound_address);

  const std::unique_ptr<grpc::Server> server_;
  const std::shared_ptr<CallCounter> calls_;
  const std::string bound_address_;
  bool drained_ = false;
};

}  // namespace rollcall::rpc
