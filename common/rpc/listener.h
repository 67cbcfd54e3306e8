#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_descriptor.h"
#include "common/metrics/registry.h"
#include "common/rpc/address.h"

namespace rollcall::rpc {

// The TCP connections that are open, by descriptor and inode. Their owner, gRPC, closes them
// without a word; a descriptor that is closed, or names another file by now, no longer counts.
// Not thread-safe.
class OpenConnections {
 public:
  // Counts the connection, unless `limit` others are still open.
  bool TryAdd(int descriptor, size_t limit);
  // Forgets those that were closed; returns how many are open.
  size_t CountOpen();

 private:
  std::map<int, ino_t> inode_of_;
};

// Accepts TCP connections in a thread of its own and hands them on, at most so many at a time:
// gRPC 1.51 accepts without bound. Thread-safe.
class Listener {
 public:
  // Takes over an accepted connection, non-blocking.
  using Handler = std::function<void(int listener, int connection)>;

  // Binds all addresses of the host; none is accepted from before Start. INVALID_ARGUMENT: the host
  // has no address; UNAVAILABLE: it cannot be listened on, for instance because the port is taken.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const Address& address,
                                                        size_t max_connections);
  ~Listener() { Stop(); }

  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  uint16_t port() const { return port_; }

  // Keeps rollcall_connections and rollcall_connections_refused_total there; before Start.
  void Export(metrics::Registry* metrics);

  void Start(Handler handler);
  // Returns when nothing will be handed on any more and the port is free. Idempotent.
  void Stop();

 private:
  Listener(std::vector<FileDescriptor> sockets, FileDescriptor wake, uint16_t port,
           size_t max_connections);

  void Run();
  void AcceptAll(int socket);
  void CountRefused();

  std::vector<FileDescriptor> sockets_;
  const FileDescriptor wake_;  // an eventfd: written by Stop
  const uint16_t port_;
  const size_t max_connections_;
  Handler handler_;
  OpenConnections connections_;  // of the thread
  metrics::Gauge* open_ = nullptr;
  metrics::Counter* refused_ = nullptr;
  std::thread thread_;
};

}  // namespace rollcall::rpc
