#include "common/rpc/service_main.h"

#include <grpc/support/log.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/build_info.h"
#include "common/base/logging.h"
#include "common/base/peer_loss.h"
#include "common/base/status.h"
#include "common/metrics/exposer.h"
#include "common/rpc/admin_server.h"
#include "common/rpc/liveness.h"
#include "common/rpc/server.h"

namespace rollcall::rpc {
namespace {

struct Flags {
  std::string config;
  std::vector<std::string> sets;
  std::optional<std::string> listen;
  std::optional<std::string> metrics_listen;
  std::optional<std::string> admin_listen;
  std::string log_level = "info";
};

// The exit code when the process should end at once, after help or a usage error.
std::optional<int> ParseFlags(int argc, char** argv, const ServiceSpec& spec, Flags* flags) {
  const std::string binary = absl::StrCat("rollcall-", spec.name);
  CLI::App app(spec.description, binary);
  app.footer(
      "Exit codes: 0 finished or drained, 1 failure, 2 usage or configuration, 3 forced,\n"
      "4 another rank of the same learner was lost.\n"
      "SIGTERM and SIGINT drain; a second one exits at once.");
  app.add_option("--config", flags->config, "Configuration of the run, YAML")->required();
  app.add_option("--set", flags->sets, "Override one value, a.b=c; may be repeated")
      ->allow_extra_args(false);
  const std::string section = spec.endpoints ? "the configuration's " : spec.name + ".";
  app.add_option("--listen", flags->listen,
                 absl::StrCat("Address to serve on, unix:/path or host:port (port 0: a free one); "
                              "default: ",
                              section, "listen"));
  app.add_option("--metrics-listen", flags->metrics_listen,
                 absl::StrCat("Address of /metrics, host:port, or \"\" for none; default: ",
                              section, "metrics_listen"));
  app.add_option("--admin-listen", flags->admin_listen,
                 "Address of health and reflection in plain text, host:port or unix:/path, or \"\" "
                 "for none; default: security.admin_listen");
  app.add_option("--log-level", flags->log_level, "debug, info, warn, error or off")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  if (spec.add_flags) spec.add_flags(app);
  app.set_version_flag("--version", absl::StrCat(binary, " ", std::string(Version()), " (",
                                                 std::string(BuildType()), ")"));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitClean : kExitUsage;
  }
  return std::nullopt;
}

Endpoints ConfiguredEndpoints(const v1::RunConfig& config, const ServiceSpec& spec) {
  const auto from = [](const auto& section) {
    return Endpoints{section.listen(), section.metrics_listen()};
  };
  if (spec.endpoints) return spec.endpoints(config);
  switch (spec.role) {
    case config::Role::kGenerator:
      return from(config.generator());
    case config::Role::kReward:
      return from(config.reward());
    case config::Role::kReference:
      return from(config.reference());
    case config::Role::kRun:
    case config::Role::kLearner:
    case config::Role::kRewardModel:
      break;
  }
  return from(config.learner());
}

Endpoints EndpointsOf(const v1::RunConfig& config, const ServiceSpec& spec, const Flags& flags) {
  const Endpoints configured = ConfiguredEndpoints(config, spec);
  return {flags.listen.value_or(configured.listen),
          flags.metrics_listen.value_or(configured.metrics_listen),
          flags.admin_listen.value_or(config.security().admin_listen())};
}

// gRPC's own complaints in our format.
void LogFromGrpc(gpr_log_func_args* args) {
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    LogWarning("grpc", {{"message", args->message}});
  } else {
    LogDebug("grpc", {{"message", args->message}});
  }
}

// Holds what the service last reported, and hands it to the servers while there are some.
class HealthSwitch {
 public:
  void Report(bool serving) {
    absl::MutexLock lock(&mutex_);
    serving_ = serving;
    Tell();
  }
  void Attach(Server* server, AdminServer* admin) {
    absl::MutexLock lock(&mutex_);
    server_ = server;
    admin_ = admin;
    Tell();
  }

 private:
  void Tell() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (server_ != nullptr) server_->SetServing(serving_);
    if (admin_ != nullptr) admin_->SetServing(serving_);
  }

  absl::Mutex mutex_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = true;
  Server* server_ ABSL_GUARDED_BY(mutex_) = nullptr;
  AdminServer* admin_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// The life of one service, from its creation to its end.
class Host {
 public:
  Host(const ServiceSpec& spec, const v1::RunConfig& config, Endpoints endpoints,
       Shutdown& shutdown)
      : spec_(spec), config_(config), endpoints_(std::move(endpoints)), shutdown_(shutdown) {}

  // INVALID_ARGUMENT when the configuration is at fault.
  absl::Status Create() {
    metrics_.AddBuildInfo(spec_.name);
    ROLLCALL_ASSIGN_OR_RETURN(security_, Security::FromConfig(config_.security()));
    ExportSecurity();
    metrics_.AddComputedGauge(
        "rollcall_work_stands_still_seconds",
        "Time that waiting work has stood still; 0 while none waits.",
        [progress = progress_] { return absl::ToDoubleSeconds(progress->StandsStillFor()); });
    ROLLCALL_ASSIGN_OR_RETURN(exposer_,
                              metrics::Exposer::Start(metrics_, endpoints_.metrics_listen));
    auto health = health_;
    ROLLCALL_ASSIGN_OR_RETURN(
        service_,
        spec_.create({.config = config_,
                      .metrics = metrics_,
                      .shutdown = shutdown_,
                      .report_health = [health](bool serving) { health->Report(serving); },
                      .security = security_,
                      .progress = progress_}));
    return absl::OkStatus();
  }

  absl::Status Start() {
    // Before the service loads, which may take minutes: probes see that the process lives.
    if (!endpoints_.admin_listen.empty()) {
      ROLLCALL_ASSIGN_OR_RETURN(admin_, AdminServer::Start(endpoints_.admin_listen, spec_.name));
      liveness_ = std::make_unique<LivenessWatch>(
          progress_, absl::Seconds(config_.rpc().progress_timeout()),
          [admin = admin_.get()](bool live) { admin->SetLive(live); });
    }
    ROLLCALL_RETURN_IF_ERROR(service_->Start());
    ServerOptions options = ServerOptionsOf(config_.security(), security_);
    options.address = endpoints_.listen;
    options.service = spec_.name;
    options.metrics = &metrics_;
    options.serving = false;
    options.max_receive_bytes = options.max_send_bytes = spec_.max_message_bytes;
    absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options, service_->services());
    if (!server.ok()) {
      service_->CloseIntake();
      service_->Drain(absl::Now()).IgnoreError();
      return server.status();
    }
    server_ = *std::move(server);
    health_->Attach(server_.get(), admin_.get());
    LogInfo("serving", {{"address", server_->bound_address()},
                        {"metrics", exposer_->bound_address()},
                        {"admin", admin_ == nullptr ? "" : admin_->bound_address()},
                        {"tls", security_.identity != nullptr}});
    return absl::OkStatus();
  }

  // Ends everything; OK when all work finished within the drain's time.
  absl::Status Drain() {
    const absl::Time deadline = absl::Now() + absl::Seconds(config_.rpc().drain_timeout());
    health_->Report(false);
    health_->Attach(nullptr, nullptr);
    service_->CloseIntake();
    const absl::Status service = Annotate(service_->Drain(deadline), "service");
    const absl::Status server = Annotate(server_->Drain(deadline), "server");
    return service.ok() ? server : service;
  }

 private:
  void ExportSecurity() {
    metrics_
        .AddGauge("rollcall_insecure",
                  "1 where security.insecure allows plain text to other machines, else 0.")
        .Set(security_.insecure ? 1 : 0);
    if (security_.insecure) {
      LogWarning(
          "security.insecure: plain text to and from other machines is allowed; whoever "
          "reaches a port may use it");
    }
    if (security_.identity == nullptr) return;
    metrics_.AddComputedGauge(
        "rollcall_certificate_expiry_timestamp_seconds",
        "Unix time at which the certificate in the file ends; 0 when it cannot be read.",
        [identity = security_.identity] {
          return std::max(0.0, static_cast<double>(absl::ToUnixSeconds(identity->Expiry())));
        });
  }

  const ServiceSpec& spec_;
  const v1::RunConfig& config_;
  const Endpoints endpoints_;
  Shutdown& shutdown_;
  const std::shared_ptr<HealthSwitch> health_ = std::make_shared<HealthSwitch>();
  const std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();

  // Destroyed from the last to the first: the server before what it serves.
  metrics::Registry metrics_;
  Security security_;
  std::unique_ptr<metrics::Exposer> exposer_;
  std::unique_ptr<AdminServer> admin_;
  std::unique_ptr<LivenessWatch> liveness_;
  std::unique_ptr<HostedService> service_;
  std::unique_ptr<Server> server_;
};

int Serve(Host& host, Shutdown& shutdown) {
  if (const absl::Status created = host.Create(); !created.ok()) {
    LogError("cannot start", {{"status", created}});
    return absl::IsInvalidArgument(created) ? kExitUsage : kExitFailure;
  }
  if (const absl::Status started = host.Start(); !started.ok()) {
    LogError("cannot start", {{"status", started}});
    return kExitFailure;
  }
  absl::Status drained;
  shutdown.OnShutdown("drain", [&] { drained = host.Drain(); });
  const absl::Status ended = shutdown.Wait();
  if (!ended.ok()) {
    LogError("failed", {{"status", ended}});
    return IsPeerLost(ended) ? kExitPeerLost : kExitFailure;
  }
  if (!drained.ok()) {
    LogError("drain incomplete", {{"status", drained}});
    return absl::IsDeadlineExceeded(drained) ? kExitForced : kExitFailure;
  }
  LogInfo("stopped", {{"reason", shutdown.reason()}});
  return kExitClean;
}

// Idle OpenMP threads sleep, unless the environment says otherwise. By default they spin for 3 ms
// after every parallel region; where processes share the cores that made training 5 to 10 times
// slower and decoding 50 times. OpenMP reads its environment before main begins, hence the second
// start (0.2 s). Where that fails the service is slower, not wrong.
void RestartWithSleepingThreads(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/1);
  // The resolved path, so that the process keeps its name.
  std::error_code error;
  const std::string path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) execv(path.c_str(), argv);
}

}  // namespace

int RunService(int argc, char** argv, const ServiceSpec& spec) {
  Flags flags;
  if (const std::optional<int> code = ParseFlags(argc, argv, spec, &flags)) return *code;
  RestartWithSleepingThreads(argv);
  Shutdown shutdown;
  gpr_set_log_function(LogFromGrpc);
  if (const absl::Status status = InitLogging(spec.name, flags.log_level); !status.ok()) {
    std::cerr << "rollcall-" << spec.name << ": " << status.message() << "\n";
    return kExitUsage;
  }
  const absl::StatusOr<v1::RunConfig> config =
      config::LoadRunConfig(flags.config, flags.sets, spec.role);
  if (!config.ok()) {
    std::cerr << "rollcall-" << spec.name << ": " << config.status().message() << "\n";
    return kExitUsage;
  }
  Host host(spec, *config, EndpointsOf(*config, spec, flags), shutdown);
  return Serve(host, shutdown);
}

}  // namespace rollcall::rpc
