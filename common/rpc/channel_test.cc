#include "common/rpc/channel.h"

#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "common/base/shutdown.h"
#include "common/rpc/health.h"
#include "common/rpc/server.h"
#include "common/rpc/test_service.h"

namespace rollcall::rpc {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(30);

absl::Time Soon() { return absl::Now() + kPatience; }

class ChannelTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/rollcall_channel_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    address_ = "unix:" + folder_ + "/s";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static absl::Status Score(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(Soon()));
    context.set_wait_for_ready(true);
    v1::LogProbResponse response;
    return FromGrpc(v1::LogProb::NewStub(channel)->Score(&context, {}, &response));
  }

  TestService service_;
  std::string folder_;
  std::string address_;
};

TEST_F(ChannelTest, RetriesOnlyTheMethodsNamed) {
  service_.answer = [](int attempt) {
    return attempt < 3 ? absl::UnavailableError("loading") : absl::OkStatus();
  };
  auto server = Server::Start({.address = address_}, {&service_}).value();
  EXPECT_EQ(Score(Connect(address_).value()), absl::UnavailableError("loading"));
  EXPECT_EQ(service_.attempts, 1);
  service_.attempts = 0;
  EXPECT_EQ(Score(Connect(address_, {.retry_methods = {"rollcall.v1.LogProb/Describe"}}).value()),
            absl::UnavailableError("loading"));
  service_.attempts = 0;
  EXPECT_TRUE(
      Score(Connect(address_, {.retry_methods = {"rollcall.v1.LogProb/Score"}}).value()).ok());
  EXPECT_EQ(service_.attempts, 3);
}

TEST_F(ChannelTest, OtherStatusesAreNotRetriedAndTriesEnd) {
  service_.answer = [](int) { return absl::InternalError("broken"); };
  auto server = Server::Start({.address = address_}, {&service_}).value();
  auto channel = Connect(address_, {.retry_methods = {"rollcall.v1.LogProb/Score"}}).value();
  EXPECT_EQ(Score(channel), absl::InternalError("broken"));
  EXPECT_EQ(service_.attempts, 1);
  server.reset();
  service_.attempts = 0;
  service_.answer = [](int) { return absl::UnavailableError("down"); };
  server = Server::Start({.address = address_}, {&service_}).value();
  EXPECT_EQ(Score(channel), absl::UnavailableError("down"));
  EXPECT_EQ(service_.attempts, kRetryAttempts);
}

TEST_F(ChannelTest, WaitForReadyFindsAServerThatStartsLater) {
  auto channel = Connect(address_).value();
  EXPECT_EQ(WaitForReady(channel, absl::Now() + absl::Milliseconds(20)).code(),
            absl::StatusCode::kDeadlineExceeded);
  absl::Status ready = absl::UnknownError("not run");
  std::thread waiter([&] { ready = WaitForReady(channel, Soon()); });
  auto server = Server::Start({.address = address_}, {&service_}).value();
  waiter.join();
  EXPECT_TRUE(ready.ok()) << ready;
}

TEST_F(ChannelTest, WaitForReadyEndsWithTheProcess) {
  Shutdown shutdown;
  absl::Status ready;
  std::thread waiter(
      [&] { ready = WaitForReady(Connect(address_).value(), absl::InfiniteFuture(), &shutdown); });
  shutdown.Request("test");
  waiter.join();
  EXPECT_EQ(ready.code(), absl::StatusCode::kCancelled);
}

TEST_F(ChannelTest, FindsARestartedServer) {
  auto server = Server::Start({.address = address_}, {&service_}).value();
  auto channel = Connect(address_).value();
  EXPECT_TRUE(Score(channel).ok());
  server.reset();
  server = Server::Start({.address = address_}, {&service_}).value();
  EXPECT_TRUE(Score(channel).ok());
}

TEST_F(ChannelTest, HealthOfAnAbsentServerIsAnError) {
  const absl::Status status =
      CheckHealth(Connect(address_).value(), "", absl::Now() + absl::Seconds(5)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
}

TEST(ConnectTest, RefusesMalformedAddressesAndMethods) {
  EXPECT_EQ(Connect("nowhere").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Connect("localhost:0").status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* method : {"", "Score", "a.B/", "/Score", "a.B/C\"", "a.B/C/D"}) {
    const absl::Status status = Connect("localhost:1", {.retry_methods = {method}}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << method;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"" + std::string(method) + "\""));
  }
}

}  // namespace
}  // namespace rollcall::rpc
