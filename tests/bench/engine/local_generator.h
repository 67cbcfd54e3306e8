#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/shutdown.h"
#include "common/metrics/registry.h"
#include "common/rpc/server.h"
#include "common/rpc/service_main.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/generator.grpc.pb.h"

namespace rollcall::bench {

// A generator as its binary makes it, in this process, behind a real server on a Unix socket in
// `folder`. A failure to start ends the process with a message.
class LocalGenerator {
 public:
  // `sets` override its configuration.
  LocalGenerator(const std::string& folder, const std::string& model, int threads,
                 std::vector<std::string> sets = {});
  ~LocalGenerator();

  // Sends all requests at once, each on a thread of its own, and returns the tokens that came when
  // every stream has ended. A stream that fails ends the process.
  int64_t GenerateAll(const std::vector<v1::GenerateRequest>& requests);

  v1::Generator::Stub* stub() { return stub_.get(); }
  const std::string& address() const { return server_->bound_address(); }

 private:
  int64_t Generate(const v1::GenerateRequest& request);

  v1::RunConfig config_;
  metrics::Registry metrics_;
  Shutdown shutdown_;
  std::unique_ptr<rpc::HostedService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<v1::Generator::Stub> stub_;
};

}  // namespace rollcall::bench
