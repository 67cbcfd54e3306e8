#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "services/cli/process/child_process.h"
#include "services/cli/process/restart_policy.h"

namespace rollcall::cli {

struct ServiceSpec {
  ChildSpec child;
  // Restarted when it dies; the others end the run.
  bool stateless = false;
  // A further rank of the main child. One of them cannot go on without the others: when any is
  // killed or lost, all end and are started again together.
  bool rank = false;
};

struct SupervisorOptions {
  RestartOptions restart;
  // How long children may drain after SIGTERM before they are killed.
  absl::Duration drain = absl::Seconds(30);
  // How long the other ranks may take to end after the first of them, before they are killed: time to
  // notice, which is a few seconds at most, and to close what they hold.
  absl::Duration rank_end = absl::Seconds(30);
  // Told of every event a user should see: "generator-0 died (signal 9 (Killed)); restarting it in
  // 500ms; log: …".
  std::function<void(const std::string&)> notice;
};

// Runs the services of one local run: starts them, restarts stateless ones, and leaves no process
// behind. The first spec that is not stateless is the main child (the learner, or whatever the
// command is about): the run ends when it does, unless it has further ranks and was only killed or
// lost one of them. Used from the main thread only (see ChildProcess).
class Supervisor {
 public:
  Supervisor(std::vector<ServiceSpec> specs, SupervisorOptions options,
             Clock* clock = Clock::Real());
  // Stops whatever still runs.
  ~Supervisor();

  // Starts every service; on an error those already started are stopped.
  absl::Status StartAll();

  // Blocks for at most `longest`, handling exits and due restarts. The main child's exit once it
  // has ended; FAILED_PRECONDITION when another service was given up, with its reason and log.
  absl::StatusOr<std::optional<ChildExit>> Step(absl::Duration longest);

  // SIGTERM to the main child, wait; then to the others, wait; SIGKILL to whoever is left at the
  // deadline. Returns the main child's exit, if it ran. `hurry` is asked between waits: true kills
  // at once (a second Ctrl-C).
  std::optional<ChildExit> StopAll(const std::function<bool()>& hurry = {});

 private:
  struct Service {
    ServiceSpec spec;
    std::unique_ptr<ChildProcess> process;
    absl::Time started;
    int restarts_in_a_row = 0;
    std::optional<absl::Time> restart_at;
    std::optional<ChildExit> ended;  // of a rank, while others run
  };

  absl::Status Start(Service& service);
  absl::Status OnExit(Service& service, const ChildExit& ended);
  // The main child or a rank has ended; the run's exit when that is what it means.
  absl::StatusOr<std::optional<ChildExit>> OnRankExit(Service& service, const ChildExit& ended);
  absl::StatusOr<std::optional<ChildExit>> OnAllRanksEnded(const std::vector<Service*>& ranks);
  // The main child, then its further ranks.
  std::vector<Service*> Ranks();
  // Waits until every process of `services` has ended, the deadline passes or `hurry`.
  void AwaitExits(const std::vector<Service*>& services, absl::Time deadline,
                  const std::function<bool()>& hurry);
  void Notice(const std::string& text) const;
  Service* main_child();

  const SupervisorOptions options_;
  Clock* const clock_;
  std::vector<Service> services_;
  // When ranks that still run, after one has ended, are killed.
  std::optional<absl::Time> ranks_end_at_;
};

}  // namespace rollcall::cli
