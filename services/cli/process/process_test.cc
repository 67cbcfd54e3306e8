#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "common/base/file.h"
#include "common/base/machine_limits.h"
#include "services/cli/process/child_process.h"
#include "services/cli/process/restart_policy.h"
#include "services/cli/process/supervisor.h"

namespace rollcall::cli {
namespace {

using testing::HasSubstr;

class ProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "process_test_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }

  ChildSpec Shell(const std::string& name, const std::string& script) const {
    return {
        .name = name, .argv = {"/bin/sh", "-c", script}, .log_path = folder_ + "/" + name + ".log"};
  }

  // A child that ends on SIGTERM only after writing to its log.
  ChildSpec Graceful(const std::string& name) const {
    return Shell(name, "trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.05; done");
  }

  // Blocks until the log of `name` holds `text`.
  void AwaitLog(const std::string& name, const std::string& text) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (absl::Now() < deadline) {
      const auto log = ReadFile(folder_ + "/" + name + ".log");
      if (log.ok() && log->find(text) != std::string::npos) return;
      poll(nullptr, 0, 5);
    }
    FAIL() << name << " never logged " << text;
  }

  std::string folder_;
};

// How the main child of a supervisor ended; nullopt when it did not, or the supervisor gave up.
std::optional<ChildExit> RunToItsEnd(Supervisor& supervisor) {
  std::optional<ChildExit> ended;
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (!ended && absl::Now() < deadline) {
    auto step = supervisor.Step(absl::Seconds(1));
    EXPECT_TRUE(step.ok()) << step.status();
    if (!step.ok()) return std::nullopt;
    ended = *step;
  }
  return ended;
}

std::optional<ChildExit> AwaitExit(ChildProcess& child) {
  pollfd fd{child.exit_fd(), POLLIN, 0};
  poll(&fd, 1, 20'000);
  return child.Poll();
}

TEST_F(ProcessTest, ReportsCodeSignalAndMissingBinary) {
  auto child = ChildProcess::Start(Shell("seven", "echo out; echo err >&2; exit 7"));
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(AwaitExit(**child)->Describe(), "exit code 7");
  EXPECT_EQ(ReadFile(folder_ + "/seven.log").value(), "out\nerr\n");

  auto killed = ChildProcess::Start(Shell("killed", "kill -9 $$"));
  ASSERT_TRUE(killed.ok());
  EXPECT_EQ(AwaitExit(**killed)->signal, SIGKILL);

  const auto missing =
      ChildProcess::Start({"ghost", {folder_ + "/no-such-binary"}, folder_ + "/ghost.log"});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("no-such-binary"));
}

TEST_F(ProcessTest, RunsOnTheCoresItIsGiven) {
  const int core = ReadMachineLimits().cores.back();
  ChildSpec spec = Shell("bound", "grep Cpus_allowed_list /proc/self/status");
  spec.cores = {core};
  auto child = ChildProcess::Start(spec);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_TRUE(AwaitExit(**child)->clean());
  EXPECT_EQ(ReadFile(folder_ + "/bound.log").value(),
            "Cpus_allowed_list:\t" + std::to_string(core) + "\n");
}

// The parent is killed by SIGKILL and can clean up nothing itself.
TEST_F(ProcessTest, ChildDoesNotOutliveItsParent) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t middle = fork();
  if (middle == 0) {
    auto child = ChildProcess::Start(Graceful("orphan"));
    const pid_t pid = child.ok() ? (*child)->pid() : -1;
    [[maybe_unused]] auto written = write(pipe_fds[1], &pid, sizeof(pid));
    pause();
    _exit(0);
  }
  pid_t grandchild = -1;
  ASSERT_EQ(read(pipe_fds[0], &grandchild, sizeof(grandchild)),
            static_cast<ssize_t>(sizeof(grandchild)));
  ASSERT_GT(grandchild, 0);
  AwaitLog("orphan", "up");
  kill(middle, SIGKILL);
  waitpid(middle, nullptr, 0);
  AwaitLog("orphan", "drained");
}

TEST(DecideRestart, BacksOffAndGivesUp) {
  const RestartOptions options;
  const ChildExit killed{.code = 0, .signal = SIGKILL};
  ChildHistory history{.stateless = true};
  absl::Duration previous;
  for (int i = 0; i < options.most_in_a_row; ++i) {
    const RestartDecision decision = DecideRestart(history, killed, options);
    ASSERT_EQ(decision.action, RestartAction::kRestart);
    EXPECT_TRUE(decision.delay > previous || decision.delay == options.longest_delay);
    previous = decision.delay;
    history.restarts_in_a_row = decision.restarts_in_a_row;
  }
  EXPECT_EQ(DecideRestart(history, killed, options).action, RestartAction::kGiveUp);

  history.uptime = options.stable_after;
  const RestartDecision after_stable = DecideRestart(history, killed, options);
  EXPECT_EQ(after_stable.action, RestartAction::kRestart);
  EXPECT_EQ(after_stable.delay, options.first_delay);
}

TEST(DecideRestart, NeverRestartsStateOrAConfigurationError) {
  EXPECT_EQ(DecideRestart({.stateless = false}, {.signal = SIGKILL}, {}).action,
            RestartAction::kGiveUp);
  EXPECT_EQ(DecideRestart({.stateless = true}, {.code = 2}, {}).action, RestartAction::kGiveUp);
}

TEST(DecideRankRestart, RestartsRanksThatWereKilledOrLostEachOther) {
  const ChildExit killed{.code = 0, .signal = SIGKILL}, lost{.code = 4};
  const auto decide = [](const ChildExit& a, const ChildExit& b, int restarts = 0) {
    return DecideRankRestart({.stateless = true, .restarts_in_a_row = restarts},
                             {{"learner", a}, {"learner-1", b}}, {});
  };
  const RestartDecision one_killed = decide(lost, killed);
  EXPECT_EQ(one_killed.action, RestartAction::kRestart);
  EXPECT_THAT(one_killed.reason, HasSubstr("learner-1 died (signal 9"));
  EXPECT_THAT(one_killed.reason, HasSubstr("all ranks: restarting it in 500ms"));
  EXPECT_EQ(decide(lost, lost).action, RestartAction::kRestart);
  // Rank 1 was out of memory, say: it would be again.
  const RestartDecision failed = decide(lost, {.code = 1});
  EXPECT_EQ(failed.action, RestartAction::kGiveUp);
  EXPECT_EQ(failed.reason, "learner-1 failed (exit code 1)");
  EXPECT_EQ(decide({.code = 2}, lost).action, RestartAction::kGiveUp);
  EXPECT_EQ(decide(lost, killed, RestartOptions().most_in_a_row).action, RestartAction::kGiveUp);
}

TEST_F(ProcessTest, SupervisorRestartsAllRanksTogether) {
  std::vector<std::string> notices;
  SupervisorOptions options;
  options.restart.first_delay = absl::Milliseconds(1);
  options.notice = [&](const std::string& text) { notices.push_back(text); };
  // Rank 1 is killed the first time, which rank 0 notices; the second time both do their work.
  const std::string mark = folder_ + "/mark";
  ServiceSpec rank{Shell("main-1", "if [ -e " + mark + " ]; then exit 0; fi; echo x >> " + folder_ +
                                       "/starts; touch " + mark + "; kill -9 $$"),
                   false};
  rank.rank = true;
  Supervisor supervisor(
      {{Shell("main", "echo x >> " + folder_ + "/starts; if [ -e " + mark +
                          ".lost ]; then exit 0; fi; while [ ! -e " + mark +
                          " ]; do sleep 0.02; done; touch " + mark + ".lost; exit 4"),
        false},
       rank},
      options);
  ASSERT_TRUE(supervisor.StartAll().ok());
  const std::optional<ChildExit> ended = RunToItsEnd(supervisor);
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->clean());
  EXPECT_EQ(ReadFile(folder_ + "/starts").value(), "x\nx\nx\n");
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_THAT(notices[0], HasSubstr("main-1 died (signal 9"));
}

TEST_F(ProcessTest, SupervisorKillsARankThatDoesNotNoticeAndGivesUpOnOneThatFailed) {
  SupervisorOptions options;
  options.rank_end = absl::Milliseconds(50);
  ServiceSpec failing{Shell("main-1", "exit 7"), false};
  failing.rank = true;
  Supervisor supervisor({{Shell("main", "exec sleep 60"), false}, failing}, options);
  ASSERT_TRUE(supervisor.StartAll().ok());
  absl::Status given_up;
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (given_up.ok() && absl::Now() < deadline) {
    given_up = supervisor.Step(absl::Seconds(1)).status();
  }
  EXPECT_EQ(given_up.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(given_up.message()), HasSubstr("main-1 failed (exit code 7)"));
  EXPECT_THAT(std::string(given_up.message()), HasSubstr("main-1.log"));
}

TEST_F(ProcessTest, SupervisorRestartsTheStatelessAndEndsWithTheMain) {
  std::vector<std::string> notices;
  SupervisorOptions options;
  options.restart.first_delay = absl::Milliseconds(1);
  options.notice = [&](const std::string& text) { notices.push_back(text); };
  // The worker dies once, then touches a file that the main child waits for.
  const std::string mark = folder_ + "/mark";
  Supervisor supervisor(
      {{Shell("worker", "if [ -e " + mark + ".once ]; then touch " + mark +
                            "; exec sleep 60; fi; touch " + mark + ".once; kill -9 $$"),
        true},
       {Shell("main", "while [ ! -e " + mark + " ]; do sleep 0.02; done; exit 5"), false}},
      options);
  ASSERT_TRUE(supervisor.StartAll().ok());
  const std::optional<ChildExit> ended = RunToItsEnd(supervisor);
  ASSERT_TRUE(ended.has_value());
  EXPECT_EQ(ended->code, 5);
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_THAT(notices[0], HasSubstr("worker died (signal 9"));
  EXPECT_THAT(notices[0], HasSubstr("worker.log"));
}

TEST_F(ProcessTest, SupervisorStopsTheMainFirstAndLeavesNobody) {
  Supervisor supervisor({{Graceful("worker"), true}, {Graceful("main"), false}}, {});
  ASSERT_TRUE(supervisor.StartAll().ok());
  AwaitLog("main", "up");
  AwaitLog("worker", "up");
  const auto ended = supervisor.StopAll();
  ASSERT_TRUE(ended.has_value());
  EXPECT_TRUE(ended->clean());
  EXPECT_THAT(ReadFile(folder_ + "/main.log").value(), HasSubstr("drained"));
  EXPECT_THAT(ReadFile(folder_ + "/worker.log").value(), HasSubstr("drained"));
}

TEST_F(ProcessTest, SupervisorKillsWhoDoesNotDrain) {
  SupervisorOptions options;
  options.drain = absl::Milliseconds(200);
  Supervisor supervisor(
      {{Shell("deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done"), false}}, options);
  ASSERT_TRUE(supervisor.StartAll().ok());
  AwaitLog("deaf", "up");
  EXPECT_EQ(supervisor.StopAll()->signal, SIGKILL);
}

}  // namespace
}  // namespace rollcall::cli
