#include "services/cli/process/supervisor.h"

#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/peer_loss.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"

namespace rollcall::cli {
namespace {

// Longest wait between two looks at `hurry` while children drain.
constexpr absl::Duration kDrainPoll = absl::Milliseconds(100);

void PollFds(std::vector<pollfd>& fds, absl::Duration longest) {
  const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(longest, absl::Milliseconds(1)));
  poll(fds.data(), fds.size(), static_cast<int>(std::clamp<int64_t>(ms, 0, 60'000)));
}

}  // namespace

Supervisor::Supervisor(std::vector<ServiceSpec> specs, SupervisorOptions options, Clock* clock)
    : options_(std::move(options)), clock_(clock) {
  for (ServiceSpec& spec : specs) {
    services_.emplace_back();
    services_.back().spec = std::move(spec);
  }
}

Supervisor::~Supervisor() { StopAll(); }

void Supervisor::Notice(const std::string& text) const {
  if (options_.notice) options_.notice(text);
}

Supervisor::Service* Supervisor::main_child() {
  for (Service& service : services_) {
    if (!service.spec.stateless && !service.spec.rank) return &service;
  }
  return nullptr;
}

absl::Status Supervisor::Start(Service& service) {
  ROLLCALL_ASSIGN_OR_RETURN(service.process, ChildProcess::Start(service.spec.child));
  service.started = clock_->Now();
  service.restart_at.reset();
  return absl::OkStatus();
}

absl::Status Supervisor::StartAll() {
  for (Service& service : services_) {
    if (absl::Status status = Start(service); !status.ok()) {
      StopAll();
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Supervisor::OnExit(Service& service, const ChildExit& ended) {
  const ChildSpec& child = service.spec.child;
  service.process.reset();
  const RestartDecision decision = DecideRestart({.stateless = service.spec.stateless,
                                                  .restarts_in_a_row = service.restarts_in_a_row,
                                                  .uptime = clock_->Now() - service.started},
                                                 ended, options_.restart);
  const std::string what = absl::StrCat(child.name, " died (", ended.Describe(), "); ",
                                        decision.reason, "; its log: ", child.log_path);
  if (decision.action == RestartAction::kGiveUp) return absl::FailedPreconditionError(what);
  service.restarts_in_a_row = decision.restarts_in_a_row;
  service.restart_at = clock_->Now() + decision.delay;
  Notice(what);
  return absl::OkStatus();
}

std::vector<Supervisor::Service*> Supervisor::Ranks() {
  std::vector<Service*> ranks = {main_child()};
  for (Service& service : services_) {
    if (service.spec.rank) ranks.push_back(&service);
  }
  return ranks;
}

absl::StatusOr<std::optional<ChildExit>> Supervisor::OnRankExit(Service& service,
                                                                const ChildExit& ended) {
  const std::vector<Service*> ranks = Ranks();
  if (ranks.size() == 1 || (&service == ranks[0] && ended.clean())) return ended;
  service.process.reset();
  service.ended = ended;
  if (!ranks_end_at_) ranks_end_at_ = clock_->Now() + options_.rank_end;
  for (const Service* rank : ranks) {
    if (!rank->ended) return std::optional<ChildExit>();
  }
  return OnAllRanksEnded(ranks);
}

absl::StatusOr<std::optional<ChildExit>> Supervisor::OnAllRanksEnded(
    const std::vector<Service*>& ranks) {
  ranks_end_at_.reset();
  Service& main = *ranks[0];
  std::vector<RankExit> exits;
  for (const Service* rank : ranks) exits.push_back({rank->spec.child.name, *rank->ended});
  const RestartDecision decision = DecideRankRestart({.stateless = true,
                                                      .restarts_in_a_row = main.restarts_in_a_row,
                                                      .uptime = clock_->Now() - main.started},
                                                     exits, options_.restart);
  if (decision.action == RestartAction::kGiveUp) {
    if (main.ended->code != kExitClean && main.ended->code != kExitPeerLost) return main.ended;
    std::vector<std::string> logs;
    for (const Service* rank : ranks) logs.push_back(rank->spec.child.log_path);
    return absl::FailedPreconditionError(
        absl::StrCat(decision.reason, "; the ranks' logs: ", absl::StrJoin(logs, ", ")));
  }
  for (Service* rank : ranks) {
    rank->restarts_in_a_row = decision.restarts_in_a_row;
    rank->restart_at = clock_->Now() + decision.delay;
    rank->ended.reset();
  }
  Notice(decision.reason);
  return std::optional<ChildExit>();
}

absl::StatusOr<std::optional<ChildExit>> Supervisor::Step(absl::Duration longest) {
  std::vector<pollfd> fds;
  const absl::Time now = clock_->Now();
  for (const Service& service : services_) {
    if (service.process) fds.push_back({service.process->exit_fd(), POLLIN, 0});
    if (service.restart_at)
      longest = std::min(longest, std::max(absl::ZeroDuration(), *service.restart_at - now));
  }
  if (ranks_end_at_)
    longest = std::min(longest, std::max(absl::ZeroDuration(), *ranks_end_at_ - now));
  PollFds(fds, longest);

  if (ranks_end_at_ && *ranks_end_at_ <= clock_->Now()) {
    for (Service* rank : Ranks()) {
      if (rank->process) rank->process->Signal(SIGKILL);
    }
  }
  const Service* main = main_child();
  for (Service& service : services_) {
    if (service.process) {
      const std::optional<ChildExit> ended = service.process->Poll();
      if (!ended) continue;
      if (&service == main || service.spec.rank) {
        ROLLCALL_ASSIGN_OR_RETURN(const std::optional<ChildExit> over, OnRankExit(service, *ended));
        if (over) return over;
        continue;
      }
      ROLLCALL_RETURN_IF_ERROR(OnExit(service, *ended));
    } else if (service.restart_at && *service.restart_at <= clock_->Now()) {
      ROLLCALL_RETURN_IF_ERROR(Start(service));
    }
  }
  return std::optional<ChildExit>();
}

void Supervisor::AwaitExits(const std::vector<Service*>& services, absl::Time deadline,
                            const std::function<bool()>& hurry) {
  while (clock_->Now() < deadline && !(hurry && hurry())) {
    std::vector<pollfd> fds;
    for (Service* service : services) {
      if (service->process && !service->process->Poll())
        fds.push_back({service->process->exit_fd(), POLLIN, 0});
    }
    if (fds.empty()) return;
    PollFds(fds, std::min(kDrainPoll, deadline - clock_->Now()));
  }
}

std::optional<ChildExit> Supervisor::StopAll(const std::function<bool()>& hurry) {
  const absl::Time deadline = clock_->Now() + options_.drain;
  Service* main = main_child();
  std::vector<Service*> others;
  for (Service& service : services_) {
    service.restart_at.reset();
    if (service.process && &service != main) others.push_back(&service);
  }
  if (main != nullptr && main->process) {
    main->process->Signal(SIGTERM);
    AwaitExits({main}, deadline, hurry);
  }
  for (Service* service : others) service->process->Signal(SIGTERM);
  AwaitExits(others, std::max(deadline, clock_->Now() + absl::Seconds(2)), hurry);

  std::optional<ChildExit> main_exit;
  if (main != nullptr && main->process) {
    main_exit = main->process->Poll();
    if (!main_exit) main_exit = ChildExit{.code = 0, .signal = SIGKILL};
  }
  for (Service& service : services_) {
    if (service.process && !service.process->Poll())
      Notice(absl::StrCat(service.spec.child.name, " did not drain in time; killed"));
    service.process.reset();
  }
  return main_exit;
}

}  // namespace rollcall::cli
