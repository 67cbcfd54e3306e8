#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/shutdown.h"
#include "common/metrics/registry.h"
#include "common/rpc/server.h"
#include "common/rpc/service_main.h"
#include "services/generator/testing/generator_client.h"

namespace rollcall::generator::testing {

// A generator in this process, as its binary makes it, behind a real server on a Unix socket, and a
// client of it.
class GeneratorServer : public GeneratorClient {
 public:
  // Serves `model_path`; `sets` override the configuration, "generator.threads=1" each. Test
  // failures where it cannot.
  GeneratorServer(const std::string& model_path, std::vector<std::string> sets);
  ~GeneratorServer();

  rpc::HostedService& service() { return *service_; }
  const std::string& address() const { return server_->bound_address(); }
  std::string metrics_text() const { return metrics_.Text(); }

 private:
  std::string folder_;
  v1::RunConfig config_;
  metrics::Registry metrics_;
  Shutdown shutdown_;
  bool serving_ = true;
  std::unique_ptr<rpc::HostedService> service_;
  std::unique_ptr<rpc::Server> server_;
};

}  // namespace rollcall::generator::testing
