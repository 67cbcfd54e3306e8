#include "common/base/shutdown.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/logging.h"

namespace rollcall {
namespace {

using testing::ElementsAre;

constexpr absl::Duration kPatience = absl::Seconds(30);

TEST(ShutdownTest, RequestRunsTheStepsInOrder) {
  Shutdown shutdown;
  std::vector<std::string> order;
  shutdown.OnShutdown("first", [&] { order.push_back("first"); });
  shutdown.OnShutdown("second", [&] { order.push_back("second"); });
  EXPECT_FALSE(shutdown.requested());
  EXPECT_EQ(shutdown.reason(), "");
  std::thread requester([&] { shutdown.Request("training finished"); });
  EXPECT_TRUE(shutdown.Wait().ok());
  requester.join();
  EXPECT_THAT(order, ElementsAre("first", "second"));
  EXPECT_TRUE(shutdown.requested());
  EXPECT_EQ(shutdown.reason(), "training finished");
}

TEST(ShutdownTest, EachSignalRequests) {
  for (const auto& [signal, name] :
       {std::pair{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}}) {
    Shutdown shutdown;
    ASSERT_EQ(::kill(::getpid(), signal), 0);
    EXPECT_TRUE(shutdown.Wait().ok());
    EXPECT_EQ(shutdown.reason(), name);
  }
}

TEST(ShutdownTest, FailureIsReturnedAndOutlastsACleanReason) {
  Shutdown shutdown;
  shutdown.Request("SIGTERM");
  shutdown.OnShutdown("drain", [&] { shutdown.Fail(absl::DeadlineExceededError("drain")); });
  shutdown.OnShutdown("flush", [&] { shutdown.Fail(absl::InternalError("later")); });
  EXPECT_EQ(shutdown.Wait(), absl::DeadlineExceededError("drain"));
  EXPECT_EQ(shutdown.reason(), "drain");
}

TEST(ShutdownTest, SecondSignalForcesWhileTheStepsRun) {
  absl::Notification forced;
  Shutdown shutdown([&] { forced.Notify(); });
  bool was_forced = false;
  shutdown.OnShutdown("stuck", [&] {
    ASSERT_EQ(::kill(::getpid(), SIGTERM), 0);
    was_forced = forced.WaitForNotificationWithTimeout(kPatience);
  });
  ASSERT_EQ(::kill(::getpid(), SIGINT), 0);
  EXPECT_TRUE(shutdown.Wait().ok());
  EXPECT_TRUE(was_forced);
}

TEST(ShutdownTest, AwaitRequestHasADeadline) {
  Shutdown shutdown;
  EXPECT_FALSE(shutdown.AwaitRequest(absl::Now() + absl::Milliseconds(1)));
  shutdown.Request("now");
  EXPECT_TRUE(shutdown.AwaitRequest(absl::InfinitePast()));
}

TEST(ShutdownTest, SigpipeIsIgnored) {
  Shutdown shutdown;
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  EXPECT_EQ(::write(ends[1], "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  ::close(ends[1]);
}

// The real thing in another process: ready is told through a pipe, then signals arrive from
// outside. Runs this binary again, since a fork of a threaded process must exec.
class ShutdownProcess {
 public:
  explicit ShutdownProcess(const std::string& mode) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    const std::string descriptor = std::to_string(ready[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      Shutdown::RestoreSignalsInChild();
      ::setenv("ROLLCALL_SHUTDOWN_MODE", mode.c_str(), 1);
      ::setenv("ROLLCALL_SHUTDOWN_READY", descriptor.c_str(), 1);
      ::execl("/proc/self/exe", "base_test", "--gtest_filter=ShutdownChild.Main",
              "--gtest_also_run_disabled_tests", static_cast<char*>(nullptr));
      ::_exit(99);
    }
    ::close(ready[1]);
    ready_ = ready[0];
  }
  ~ShutdownProcess() { ::close(ready_); }

  // Blocks until the child wrote a byte; false when it died first.
  bool AwaitStage() const {
    char byte = 0;
    return ::read(ready_, &byte, 1) == 1;
  }
  void Send(int signal) const { EXPECT_EQ(::kill(pid_, signal), 0); }
  // The exit code, or minus the number of the signal that ended it.
  int Join() const {
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  int ready_ = -1;
};

TEST(ShutdownChild, Main) {
  const char* mode = ::getenv("ROLLCALL_SHUTDOWN_MODE");
  if (mode == nullptr) GTEST_SKIP() << "runs only as the child of ShutdownProcessTest";
  const int ready = std::stoi(::getenv("ROLLCALL_SHUTDOWN_READY"));
  auto tell = [ready] { ASSERT_EQ(::write(ready, "r", 1), 1); };
  Shutdown shutdown;
  shutdown.OnShutdown("drain", [&] {
    tell();
    if (std::string_view(mode) == "stuck") absl::Notification().WaitForNotification();
  });
  if (std::string_view(mode) == "failing") shutdown.Fail(absl::InternalError("broken"));
  tell();
  ::_exit(shutdown.Wait().ok() ? kExitClean : kExitFailure);
}

TEST(ShutdownProcessTest, SignalEndsCleanly) {
  const ShutdownProcess child("clean");
  ASSERT_TRUE(child.AwaitStage());
  child.Send(SIGTERM);
  EXPECT_EQ(child.Join(), kExitClean);
}

TEST(ShutdownProcessTest, FailureEndsWithItsCode) {
  EXPECT_EQ(ShutdownProcess("failing").Join(), kExitFailure);
}

TEST(ShutdownProcessTest, SecondSignalEndsAStuckDrain) {
  const ShutdownProcess child("stuck");
  ASSERT_TRUE(child.AwaitStage());
  child.Send(SIGTERM);
  ASSERT_TRUE(child.AwaitStage());  // the drain runs and never ends
  child.Send(SIGINT);
  EXPECT_EQ(child.Join(), kExitForced);
}

}  // namespace
}  // namespace rollcall
