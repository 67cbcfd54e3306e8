#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/config/run_config.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"
#include "services/cli/train/session.h"
#include "services/cli/up/monitoring_plan.h"
#include "services/cli/up/prometheus.h"

namespace rollcall::cli {
namespace {

struct UpFlags {
  std::string config;
  std::vector<std::string> sets;
  std::string prometheus;
  std::string listen;
  int scrape_seconds = 5;
  bool stay = false;
};

void PrintWhereToLook(const std::string& address) {
  std::printf("Prometheus: http://%s\n", address.c_str());
  for (const Query& query : FirstQueries()) {
    std::printf("  %-36s %s\n", query.what.c_str(), query.expression.c_str());
  }
  std::fflush(stdout);
}

// Says once that Prometheus has ended: the run goes on without it.
class EndNotice {
 public:
  explicit EndNotice(Prometheus* prometheus) : prometheus_(prometheus) {}
  void Check() {
    const std::optional<ChildExit> ended = told_ ? std::nullopt : prometheus_->Ended();
    if (!ended) return;
    told_ = true;
    std::fprintf(stderr, "prometheus ended with %s; the run goes on; log: %s\n",
                 ended->Describe().c_str(), prometheus_->log_path().c_str());
  }

 private:
  Prometheus* const prometheus_;
  bool told_ = false;
};

absl::Status Up(const UpFlags& flags) {
  ROLLCALL_ASSIGN_OR_RETURN(v1::RunConfig config, config::LoadRunConfig(flags.config, flags.sets));
  if (config.stage() == v1::STAGE_RLAIF) {
    return absl::InvalidArgumentError(
        "stage: expected that of a single run, got rlaif, a chain of them; `rollcall train` runs "
        "it");
  }
  ROLLCALL_ASSIGN_OR_RETURN(const std::string binary, Prometheus::FindBinary(flags.prometheus));
  ROLLCALL_RETURN_IF_ERROR(AddMetricsAddresses(&config, FindFreePorts));
  Shutdown shutdown;
  ROLLCALL_ASSIGN_OR_RETURN(const std::unique_ptr<Prometheus> prometheus,
                            Prometheus::Start({.binary = binary,
                                               .folder = config::RunFolder(config) + "/prometheus",
                                               .listen = flags.listen,
                                               .scrape_seconds = flags.scrape_seconds,
                                               .targets = ScrapeTargetsOf(config)}));
  PrintWhereToLook(prometheus->address());
  EndNotice notice(prometheus.get());
  SessionOptions options;
  options.on_metrics = [&notice](const v1::StepMetrics&) { notice.Check(); };
  ROLLCALL_ASSIGN_OR_RETURN(const SessionResult result, RunLocally(config, options, shutdown));
  if (flags.stay && !result.interrupted) {
    std::printf("the run is over; http://%s stays until you interrupt\n",
                prometheus->address().c_str());
    std::fflush(stdout);
    shutdown.Wait().IgnoreError();
  }
  std::printf("%s; run folder: %s\n", result.interrupted ? "stopped" : "done",
              result.run_dir.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddUpCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<UpFlags>();
  CLI::App* command = app.add_subcommand(
      "up", "Run a configuration as train does, with Prometheus and Rollcall's rules beside it");
  command->add_option("config", flags->config, "YAML file of the run")->required();
  command->add_option("--set", flags->sets, "Override a field; repeatable")
      ->allow_extra_args(false);
  command->add_option("--prometheus", flags->prometheus,
                      "Prometheus's binary (default: $ROLLCALL_PROMETHEUS, or from the PATH)");
  command->add_option("--listen", flags->listen,
                      "host:port of Prometheus (default: 127.0.0.1:9090, or a free port)");
  command->add_option("--scrape-seconds", flags->scrape_seconds, "Time between two scrapes")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  command->add_flag("--stay", flags->stay,
                    "Leave Prometheus up when the run is over, until interrupted");
  command->footer(
      "Prometheus keeps its data in output_dir/name/prometheus. Ctrl-C stops both.\n"
      "Exit codes: 0 done or stopped by you, 1 the run failed, 2 bad configuration or no "
      "Prometheus.");
  command->callback([flags, &exit_code] { exit_code = Report(Up(*flags)); });
}

}  // namespace rollcall::cli
