#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace rollcall {

// Exit codes of every binary.
enum ExitCode : int {
  kExitClean = 0,    // did what was asked, or drained after a signal
  kExitFailure = 1,  // a typed failure, logged
  kExitUsage = 2,    // bad flags or configuration; nothing was started
  kExitForced = 3,   // a second signal, or the drain's deadline, cut work off
};

// How a process ends: one place that receives SIGTERM, SIGINT and SIGHUP, and one ordered list of
// what to do then.
//
// Construct it first in main(), before any thread: it blocks those signals in the calling thread,
// which later threads inherit, and receives them on a thread of its own; SIGPIPE is ignored. The
// signals stay blocked after destruction, so a late one cannot turn a clean exit into a kill. A
// second signal exits at once with kExitForced: SIGTERM twice is the user's way out of a stuck
// drain. One instance per process at a time. Thread-safe.
class Shutdown {
 public:
  // `force_exit` is what a second signal calls on the signal thread; the default ends the process
  // with kExitForced.
  explicit Shutdown(std::function<void()> force_exit = {});
  ~Shutdown();

  Shutdown(const Shutdown&) = delete;
  Shutdown& operator=(const Shutdown&) = delete;

  // Adds a step that Wait() runs once shutdown was requested, in the order of the calls. Call
  // before Wait().
  void OnShutdown(std::string name, std::function<void()> step) ABSL_LOCKS_EXCLUDED(mutex_);

  // Asks for shutdown: as a signal does, or because of a failure that Wait() then returns. Never
  // blocks; the first request wins, except that a failure replaces an earlier clean reason.
  void Request(std::string_view reason) ABSL_LOCKS_EXCLUDED(mutex_);
  void Fail(absl::Status failure) ABSL_LOCKS_EXCLUDED(mutex_);

  bool requested() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Why, "" while nothing was requested: "SIGTERM", the text given to Request, or the failure's
  // message.
  std::string reason() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Blocks until shutdown is requested or the deadline; true when it is. Runs no step.
  bool AwaitRequest(absl::Time deadline) const ABSL_LOCKS_EXCLUDED(mutex_);

  // Blocks until shutdown is requested, runs the steps on the calling thread, and returns OK or the
  // first failure given to Fail(), also by a step. Called once, by main().
  absl::Status Wait() ABSL_LOCKS_EXCLUDED(mutex_);

  // Restores the default handling of the signals that this class blocks or ignores. A child process
  // inherits the mask: call this between fork() and exec(). Async-signal-safe.
  static void RestoreSignalsInChild();

 private:
  void ReceiveSignals() ABSL_LOCKS_EXCLUDED(mutex_);
  void OnSignal(int signal) ABSL_LOCKS_EXCLUDED(mutex_);

  const std::function<void()> force_exit_;

  mutable absl::Mutex mutex_;
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int signals_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string reason_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, std::function<void()>>> steps_ ABSL_GUARDED_BY(mutex_);

  std::thread signal_thread_;  // Last: it uses the fields above.
};

}  // namespace rollcall
