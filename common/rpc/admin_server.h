#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace grpc {
class Server;
}

namespace rollcall::rpc {

// A second, plain-text server for probes and people: health as the data port reports it, and
// reflection over the contracts. It carries no data RPC, so it may listen where the data port may
// not. Beside the server as a whole, health has two names: "ready", which says the same, and "live",
// which is SERVING from the start, so also while the service loads, unless SetLive says otherwise.
// Thread-safe.
class AdminServer {
 public:
  // The statuses of Server::Start. `service`: the name in the policy, whose contracts reflection
  // shows; calls to them are answered UNIMPLEMENTED here.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& address,
                                                            std::string_view service);
  ~AdminServer();

  const std::string& bound_address() const { return bound_address_; }
  void SetServing(bool serving);
  void SetLive(bool live);

 private:
  AdminServer(std::unique_ptr<grpc::Server> server, std::unique_ptr<class ListedServices> listed,
              std::string bound_address);

  const std::unique_ptr<class ListedServices> listed_;  // outlives the server
  const std::unique_ptr<grpc::Server> server_;
  const std::string bound_address_;
};

}  // namespace rollcall::rpc
