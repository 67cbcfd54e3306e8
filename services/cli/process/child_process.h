#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace rollcall::cli {

// What to start. `argv[0]` is the path of the binary.
struct ChildSpec {
  std::string name;
  std::vector<std::string> argv;
  // stdout and stderr are appended here.
  std::string log_path;
  // CPUs it is bound to; empty: those of this process.
  std::vector<int> cores;
};

// How a child ended: by its own exit code or by a signal.
struct ChildExit {
  int code = 0;
  int signal = 0;

  bool clean() const { return code == 0 && signal == 0; }
  // "exit code 1" or "signal 9 (Killed)".
  std::string Describe() const;
};

// A child process that cannot outlive this one: the kernel sends it SIGTERM when the thread that
// started it ends, so start children from the main thread. It leads a process group of its own, so
// a Ctrl-C at the terminal reaches the parent alone, which then decides the order of stopping. Not
// thread-safe.
class ChildProcess {
 public:
  // NOT_FOUND when the binary is missing; errors name binary and log.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const ChildSpec& spec);
  // Kills (SIGKILL) and reaps a child that still runs.
  ~ChildProcess();

  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Readable once the child has ended; for poll(2).
  int exit_fd() const { return pidfd_; }
  // Never blocks; the exit once the child has ended, then always the same.
  std::optional<ChildExit> Poll();
  // Blocks until the child has ended.
  ChildExit Wait();
  // Sends `signal` if the child still runs.
  void Signal(int signal);

 private:
  ChildProcess(pid_t pid, int pidfd) : pid_(pid), pidfd_(pidfd) {}

  const pid_t pid_;
  const int pidfd_;
  std::optional<ChildExit> exit_;
};

}  // namespace rollcall::cli
