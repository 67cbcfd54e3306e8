#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/progress.h"
#include "common/base/shutdown.h"
#include "common/config/run_config.h"
#include "common/metrics/registry.h"
#include "common/rpc/limits.h"
#include "common/rpc/security.h"
#include "rollcall/v1/config.pb.h"

namespace CLI {
class App;
}

namespace grpc {
class Service;
}

namespace rollcall::rpc {

// Tells the health service whether this process is ready for work; initially it is. Callable from
// any thread, also before the server listens and after it ended. Never blocks.
using HealthReporter = std::function<void(bool serving)>;

// What a service is made from. The references outlive the service.
struct ServiceContext {
  const v1::RunConfig& config;  // loaded, defaults filled in, validated for the service's role
  metrics::Registry& metrics;
  // Request("training finished") or Fail(status) end the process from within; requested() tells
  // long loops to stop.
  Shutdown& shutdown;
  HealthReporter report_health;
  // For the channels that it opens.
  Security security = {};
  // Where the service's work loop says that it goes on; liveness probes learn from it when waiting
  // work has stood still for rpc.progress_timeout.
  std::shared_ptr<Progress> progress = std::make_shared<Progress>();
};

// A service as its main sees it. All methods are called on the main thread, in this order, once
// each.
class HostedService {
 public:
  // Called when no call runs any more.
  virtual ~HostedService() = default;

  // Loads what is needed and starts the threads. May take long; the server listens only after it,
  // so no call arrives before. An error ends the process with kExitFailure.
  virtual absl::Status Start() = 0;

  // The gRPC services to serve, owned by this object.
  virtual std::vector<grpc::Service*> services() = 0;

  // Shutting down: from now on answer new calls with UNAVAILABLE, and end streams that only wait
  // for news. Never blocks.
  virtual void CloseIntake() = 0;

  // Finishes the work that runs, cancels what is left at the deadline, and stops the threads.
  // DEADLINE_EXCEEDED when something was cancelled (exit kExitForced); another error is a failure
  // (kExitFailure).
  virtual absl::Status Drain(absl::Time deadline) = 0;
};

// Where a service listens, unless its flags say otherwise.
struct Endpoints {
  std::string listen;
  std::string metrics_listen;     // "": nowhere
  std::string admin_listen = {};  // "": nowhere; security.admin_listen
};

struct ServiceSpec {
  std::string name;         // "generator"; the binary is rollcall-generator
  std::string description;  // for --help, one or two sentences
  config::Role role;        // which section must be complete
  // Makes the service, cheaply; INVALID_ARGUMENT means that the configuration cannot work
  // (kExitUsage).
  std::function<absl::StatusOr<std::unique_ptr<HostedService>>(const ServiceContext&)> create;
  // Largest message of its contracts.
  int max_message_bytes = kMaxMessageBytes;
  // Adds the binary's own flags; may be empty. They are parsed before anything else happens.
  std::function<void(CLI::App&)> add_flags = nullptr;
  // Where it listens; empty: the `listen` and `metrics_listen` of the role's section.
  std::function<Endpoints(const v1::RunConfig&)> endpoints = nullptr;
};

// A service's whole main(): flags, configuration, logs, metrics, server, shutdown; returns the exit
// code.
//
//   int main(int argc, char** argv) {
//     return rollcall::rpc::RunService(argc, argv, {.name = "reward",
//                                                   .description = "Scores completions.",
//                                                   .role = rollcall::config::Role::kReward,
//                                                   .create = rollcall::reward::MakeService});
//   }
//
// Call it before any thread is started. SIGTERM, SIGINT or a request from within drain it: health
// NOT_SERVING, intake closed, rpc.drain_timeout for what runs, threads joined. Exit codes are those
// of base/shutdown.h.
int RunService(int argc, char** argv, const ServiceSpec& spec);

}  // namespace rollcall::rpc
