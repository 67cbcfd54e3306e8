#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/metrics/registry.h"
#include "common/rpc/limits.h"
#include "common/rpc/security.h"
#include "rollcall/v1/config.pb.h"

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace rollcall::rpc {

class CallCounter;
class Listener;

struct ServerOptions {
  // "unix:/path" or "host:port"; port 0 for a free one.
  std::string address;
  // This service in the access policy: "generator".
  std::string service = {};
  Security security = {};
  // Names of roles and further permissions, of calls over TLS.
  v1::SecuritySection policy = {};
  // Where connections and refused calls are counted; null: nowhere.
  metrics::Registry* metrics = nullptr;
  // Whether the health service answers SERVING from the start.
  bool serving = true;
  int max_receive_bytes = kMaxMessageBytes;
  int max_send_bytes = kMaxMessageBytes;
  int max_connections = kMaxConnections;  // TCP only
  int max_concurrent_streams = kMaxConcurrentStreams;
  int max_metadata_bytes = kMaxMetadataBytes;
  size_t max_memory_bytes = kMaxMemoryBytes;
  absl::Duration handshake_timeout = kHandshakeTimeout;
  absl::Duration keepalive_time = kKeepaliveTime;
  absl::Duration keepalive_timeout = kKeepaliveTimeout;
};

// The options that section `security` sets.
ServerOptions ServerOptionsOf(const v1::SecuritySection& config, Security security);

// A gRPC server of callback services, with the standard health service. Thread-safe.
//
// A Unix socket is readable and writable by its owner only, and replaces one that a dead process
// has left. TCP is mutual TLS where there is an identity, every call then checked against the
// access policy; else plain text, which only this machine may reach unless `security.insecure`.
class Server {
 public:
  // Listens and serves `services`, which must outlive the server. INVALID_ARGUMENT: a malformed
  // address; ALREADY_EXISTS: somebody listens on the Unix socket; UNAVAILABLE: the address cannot
  // be listened on, for instance because it is taken; FAILED_PRECONDITION: plain text that other
  // machines could reach.
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
  // cancelled. Streams of the health service do not hold it up: they are cancelled once no other
  // call runs. Call at most once.
  absl::Status Drain(absl::Time deadline);

 private:
  Server(std::unique_ptr<grpc::Server> server, std::unique_ptr<Listener> listener,
         std::shared_ptr<CallCounter> calls, std::string bound_address);

  const std::unique_ptr<grpc::Server> server_;
  const std::unique_ptr<Listener> listener_;  // null for a Unix socket
  const std::shared_ptr<CallCounter> calls_;
  const std::string bound_address_;
  bool drained_ = false;
};

}  // namespace rollcall::rpc
