#include "common/base/shutdown.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "common/base/logging.h"

namespace rollcall {
namespace {

sigset_t HandledSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  return set;
}

std::string_view SignalName(int signal) {
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGINT:
      return "SIGINT";
    case SIGHUP:
      return "SIGHUP";
    default:
      return "signal";
  }
}

}  // namespace

Shutdown::Shutdown(std::function<void()> force_exit)
    : force_exit_(force_exit ? std::move(force_exit) : [] { ::_exit(kExitForced); }) {
  const sigset_t set = HandledSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  signal_thread_ = std::thread([this] { ReceiveSignals(); });
}

Shutdown::~Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  // Sent to the thread itself: it ends the sigwait and reaches nobody else.
  pthread_kill(signal_thread_.native_handle(), SIGTERM);
  signal_thread_.join();
}

void Shutdown::OnShutdown(std::string name, std::function<void()> step) {
  absl::MutexLock lock(&mutex_);
  steps_.emplace_back(std::move(name), std::move(step));
}

void Shutdown::Request(std::string_view reason) {
  absl::MutexLock lock(&mutex_);
  if (requested_) return;
  requested_ = true;
  reason_ = std::string(reason);
}

void Shutdown::Fail(absl::Status failure) {
  absl::MutexLock lock(&mutex_);
  if (failure.ok() || !failure_.ok()) return;
  requested_ = true;
  reason_ = std::string(failure.message());
  failure_ = std::move(failure);
}

bool Shutdown::requested() const {
  absl::MutexLock lock(&mutex_);
  return requested_;
}

std::string Shutdown::reason() const {
  absl::MutexLock lock(&mutex_);
  return reason_;
}

bool Shutdown::AwaitRequest(absl::Time deadline) const {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithDeadline(absl::Condition(&requested_), deadline);
}

absl::Status Shutdown::Wait() {
  std::vector<std::pair<std::string, std::function<void()>>> steps;
  std::string reason;
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&requested_));
    steps.swap(steps_);
    reason = reason_;
  }
  LogInfo("shutting down", {{"reason", reason}});
  for (const auto& [name, step] : steps) {
    LogDebug("shutdown step", {{"step", name}});
    step();
  }
  absl::MutexLock lock(&mutex_);
  return failure_;
}

void Shutdown::RestoreSignalsInChild() {
  ::signal(SIGPIPE, SIG_DFL);
  const sigset_t set = HandledSignals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void Shutdown::ReceiveSignals() {
  const sigset_t set = HandledSignals();
  while (true) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    OnSignal(signal);
  }
}

void Shutdown::OnSignal(int signal) {
  bool second = false;
  {
    absl::MutexLock lock(&mutex_);
    second = ++signals_ > 1;
  }
  if (!second) {
    Request(SignalName(signal));
    return;
  }
  LogError("second signal, exiting at once", {{"signal", SignalName(signal)}});
  force_exit_();
}

}  // namespace rollcall
