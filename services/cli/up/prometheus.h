#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/process/child_process.h"
#include "services/cli/up/monitoring_plan.h"

namespace rollcall::cli {

// A Prometheus server with Rollcall's rules, as a child process that lives as long as this object.
// Used from the main thread.
class Prometheus {
 public:
  struct Options {
    std::string binary;  // FindBinary
    // Its configuration, rules, data and log; made where it is missing.
    std::string folder;
    // host:port of its own page; empty: 127.0.0.1:9090, or where that is taken a free port.
    std::string listen;
    int scrape_seconds = 5;
    std::vector<ScrapeTarget> targets;
  };

  // `wanted` where it is not empty, else $ROLLCALL_PROMETHEUS, else the first `prometheus` on the
  // PATH, else Debian's package unpacked in ~/.cache/rollcall/prometheus. NOT_FOUND says how to get
  // it.
  static absl::StatusOr<std::string> FindBinary(const std::string& wanted);

  // Starts it and waits until it listens. FAILED_PRECONDITION when it ends instead, with the last
  // lines of its log; DEADLINE_EXCEEDED.
  static absl::StatusOr<std::unique_ptr<Prometheus>> Start(const Options& options);
  // SIGTERM, so that its data is whole, and SIGKILL when it takes too long.
  ~Prometheus();

  const std::string& address() const { return address_; }  // "127.0.0.1:9090"
  const std::string& log_path() const { return log_path_; }

  // How it ended, if it has.
  std::optional<ChildExit> Ended() { return child_->Poll(); }

 private:
  Prometheus(std::unique_ptr<ChildProcess> child, std::string address, std::string log_path)
      : child_(std::move(child)), address_(std::move(address)), log_path_(std::move(log_path)) {}

  absl::Status AwaitReady();

  const std::unique_ptr<ChildProcess> child_;
  const std::string address_;
  const std::string log_path_;
};

}  // namespace rollcall::cli
