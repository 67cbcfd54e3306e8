#include "common/rpc/service_main.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "common/rpc/status_conversion.h"
#include "rollcall/v1/logprob.grpc.pb.h"

namespace rollcall::rpc {
namespace {

using testing::AllOf;
using testing::HasSubstr;

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

// One run of service_main_test_service, as a user would start it.
class ServiceProcess {
 public:
  ServiceProcess(std::vector<std::string> arguments, const std::string& log) {
    const std::string binary =
        std::string(std::getenv("ROLLCALL_BIN_DIR")) + "/service_main_test_service";
    arguments.insert(arguments.begin(), binary);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      Shutdown::RestoreSignalsInChild();
      const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      ::dup2(file, STDOUT_FILENO);
      ::dup2(file, STDERR_FILENO);
      ::execv(binary.c_str(), argv.data());
      ::_exit(99);
    }
  }
  ~ServiceProcess() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    Join();
  }

  void Send(int signal) const { EXPECT_EQ(::kill(pid_, signal), 0); }

  // The exit code, or minus the number of the signal that ended it.
  int Join() {
    int status = 0;
    EXPECT_EQ(::waitpid(std::exchange(pid_, -1), &status, 0) > 0, true);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
};

class ServiceMainTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/rollcall_main_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    address_ = "unix:" + folder_ + "/s";
    ASSERT_TRUE(WriteFileAtomically(folder_ + "/run.yaml",
                                    "rpc: {drain_timeout: 30}\n"
                                    "reward:\n"
                                    "  listen: " +
                                        address_ +
                                        "\n"
                                        "  verifiers:\n"
                                        "    - {name: normal, exact_match: {}}\n")
                    .ok());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Starts the service in `mode` with further arguments.
  ServiceProcess Start(const std::string& mode, std::vector<std::string> arguments = {}) const {
    std::vector<std::string> all = {"--config", folder_ + "/run.yaml", "--set",
                                    "reward.verifiers[0].name=" + mode};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return ServiceProcess(all, folder_ + "/log");
  }
  std::string Log() const { return ReadFile(folder_ + "/log").value(); }

  // A channel to the service, once it listens.
  std::shared_ptr<grpc::Channel> Ready() const {
    auto channel = Connect(address_).value();
    EXPECT_TRUE(WaitForReady(channel, Soon()).ok()) << Log();
    return channel;
  }

  std::string folder_;
  std::string address_;
};

TEST_F(ServiceMainTest, HelpAndVersionEndCleanly) {
  EXPECT_EQ(ServiceProcess({"--help"}, folder_ + "/log").Join(), kExitClean);
  EXPECT_THAT(Log(), AllOf(HasSubstr("Does what its test says."), HasSubstr("--config"),
                           HasSubstr("--metrics-listen"), HasSubstr("reward.listen"),
                           HasSubstr("3 forced")));
  EXPECT_EQ(ServiceProcess({"--version"}, folder_ + "/log").Join(), kExitClean);
  EXPECT_THAT(Log(), testing::StartsWith("rollcall-reward 0."));
}

TEST_F(ServiceMainTest, UsageAndConfigurationErrors) {
  EXPECT_EQ(ServiceProcess({}, folder_ + "/log").Join(), kExitUsage);
  EXPECT_THAT(Log(), HasSubstr("--config"));
  EXPECT_EQ(Start("normal", {"--no-such-flag"}).Join(), kExitUsage);
  EXPECT_EQ(Start("normal", {"--log-level", "loud"}).Join(), kExitUsage);
  EXPECT_EQ(Start("normal", {"--set", "rpc.drain_timeot=3"}).Join(), kExitUsage);
  EXPECT_THAT(Log(), AllOf(HasSubstr("--set rpc.drain_timeot=3"), HasSubstr("drain_timeout")));
  EXPECT_EQ(ServiceProcess({"--config", folder_ + "/none.yaml"}, folder_ + "/log").Join(),
            kExitUsage);
  EXPECT_THAT(Log(), HasSubstr("none.yaml"));
  EXPECT_EQ(Start("invalid").Join(), kExitUsage);
  EXPECT_THAT(Log(), HasSubstr("contradictory"));
}

TEST_F(ServiceMainTest, FailuresToStart) {
  EXPECT_EQ(Start("start_fails").Join(), kExitFailure);
  EXPECT_THAT(Log(), HasSubstr("INTERNAL: no weights"));
  EXPECT_EQ(Start("normal", {"--listen", "unix:" + folder_ + "/none/s"}).Join(), kExitFailure);
  EXPECT_THAT(Log(), HasSubstr("cannot listen on"));
}

TEST_F(ServiceMainTest, ServesThenDrainsOnSigterm) {
  ServiceProcess service = Start("normal", {"--metrics-listen", "127.0.0.1:0"});
  EXPECT_EQ(CheckHealth(Ready(), "", Soon()).value(), true);
  service.Send(SIGTERM);
  EXPECT_EQ(service.Join(), kExitClean);
  EXPECT_THAT(Log(), AllOf(HasSubstr("serving address=" + address_ + " metrics=127.0.0.1:"),
                           HasSubstr("stopped reason=SIGTERM")));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/s"));
}

TEST_F(ServiceMainTest, ServiceDecidesItsHealth) {
  ServiceProcess service = Start("not_ready");
  EXPECT_EQ(CheckHealth(Ready(), "", Soon()).value(), false);
  service.Send(SIGINT);
  EXPECT_EQ(service.Join(), kExitClean);
}

TEST_F(ServiceMainTest, EndsFromWithin) {
  EXPECT_EQ(Start("finishes").Join(), kExitClean);
  EXPECT_THAT(Log(), HasSubstr("stopped reason=\"all done\""));
  EXPECT_EQ(Start("fails_later").Join(), kExitFailure);
  EXPECT_THAT(Log(), HasSubstr("DATA_LOSS: weights rotted"));
}

TEST_F(ServiceMainTest, FailedDrainIsAFailure) {
  ServiceProcess service = Start("drain_fails");
  Ready();
  service.Send(SIGTERM);
  EXPECT_EQ(service.Join(), kExitFailure);
  EXPECT_THAT(Log(), HasSubstr("cannot flush"));
}

TEST_F(ServiceMainTest, CallStillRunningAtTheDeadlineIsForced) {
  ServiceProcess service = Start("hold", {"--set", "rpc.drain_timeout=0.05"});
  auto stub = v1::LogProb::NewStub(Ready());
  absl::Status called;
  std::thread caller([&] {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(Soon()));
    v1::LogProbResponse response;
    called = FromGrpc(stub->Score(&context, {}, &response));
  });
  v1::ModelDescription description;
  while (description.vocab_size() == 0) {  // until the held call has arrived
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(Soon()));
    ASSERT_TRUE(FromGrpc(stub->Describe(&context, {}, &description)).ok());
  }
  service.Send(SIGTERM);
  EXPECT_EQ(service.Join(), kExitForced);
  caller.join();
  EXPECT_FALSE(called.ok());
}

TEST_F(ServiceMainTest, SecondSignalForces) {
  ServiceProcess service = Start("stuck");
  auto channel = Ready();
  service.Send(SIGTERM);
  while (CheckHealth(channel, "", Soon()).value_or(false)) {
  }
  service.Send(SIGTERM);
  EXPECT_EQ(service.Join(), kExitForced);
}

}  // namespace
}  // namespace rollcall::rpc
