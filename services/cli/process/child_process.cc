#include "services/cli/process/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/base/shutdown.h"

namespace rollcall::cli {
namespace {

// Runs between fork and exec: only async-signal-safe calls. The exec error travels through
// `error_fd`.
[[noreturn]] void ExecChild(char* const* argv, const cpu_set_t* cores, int log_fd, pid_t parent,
                            int error_fd) {
  Shutdown::RestoreSignalsInChild();
  // Where it is refused the child runs on all CPUs: slower, not wrong.
  if (cores != nullptr) sched_setaffinity(0, sizeof(*cores), cores);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(127);  // The parent ended before prctl.
  const int null_fd = open("/dev/null", O_RDONLY);
  dup2(null_fd, STDIN_FILENO);
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_fd, &error, sizeof(error));
  _exit(127);
}

}  // namespace

std::string ChildExit::Describe() const {
  if (signal != 0) return absl::StrCat("signal ", signal, " (", strsignal(signal), ")");
  return absl::StrCat("exit code ", code);
}

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(const ChildSpec& spec) {
  const int log_fd = open(spec.log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_fd < 0) {
    return absl::ErrnoToStatus(errno,
                               absl::StrCat(spec.log_path, ": cannot open the log of ", spec.name));
  }
  int error_pipe[2];
  if (pipe2(error_pipe, O_CLOEXEC) != 0) {
    close(log_fd);
    return absl::ErrnoToStatus(errno, absl::StrCat("pipe for ", spec.name));
  }
  std::vector<char*> argv;
  for (const std::string& argument : spec.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (const int core : spec.cores) CPU_SET(static_cast<size_t>(core), &cores);

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    ExecChild(argv.data(), spec.cores.empty() ? nullptr : &cores, log_fd, parent, error_pipe[1]);
  }
  const int fork_error = errno;
  close(log_fd);
  close(error_pipe[1]);
  if (pid < 0) {
    close(error_pipe[0]);
    return absl::ErrnoToStatus(fork_error, absl::StrCat("fork for ", spec.name));
  }
  int exec_error = 0;
  const ssize_t got = read(error_pipe[0], &exec_error, sizeof(exec_error));
  close(error_pipe[0]);
  if (got == sizeof(exec_error)) {
    waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(exec_error,
                               absl::StrCat(spec.argv[0], ": cannot start ", spec.name));
  }
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd < 0) {
    const int error = errno;
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(error, absl::StrCat("pidfd_open for ", spec.name));
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, pidfd));
}

ChildProcess::~ChildProcess() {
  if (!exit_.has_value()) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(pidfd_);
}

std::optional<ChildExit> ChildProcess::Poll() {
  if (exit_.has_value()) return exit_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  ChildExit ended;
  if (WIFSIGNALED(status)) {
    ended.signal = WTERMSIG(status);
  } else {
    ended.code = WEXITSTATUS(status);
  }
  exit_ = ended;
  return exit_;
}

ChildExit ChildProcess::Wait() {
  while (true) {
    if (const std::optional<ChildExit> ended = Poll()) return *ended;
    pollfd fd{pidfd_, POLLIN, 0};
    poll(&fd, 1, -1);
  }
}

void ChildProcess::Signal(int signal) {
  if (!Poll().has_value()) kill(pid_, signal);
}

}  // namespace rollcall::cli
