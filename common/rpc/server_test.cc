#include "common/rpc/server.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/channel_arguments.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/rpc/admin_server.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "common/rpc/test_service.h"

namespace rollcall::rpc {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(30);

absl::Time Soon() { return absl::Now() + kPatience; }

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/rollcall_server_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    address_ = "unix:" + folder_ + "/s";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Server> StartServer(ServerOptions options = {}) {
    if (options.address.empty()) options.address = address_;
    absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(options, {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }

  static absl::Status Score(const std::string& address, size_t bytes = 0) {
    auto stub = v1::LogProb::NewStub(Connect(address).value());
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(Soon()));
    context.set_wait_for_ready(true);
    v1::LogProbRequest request;
    request.set_manifest_hash(std::string(bytes, 'm'));
    v1::LogProbResponse response;
    return FromGrpc(stub->Score(&context, request, &response));
  }

  TestService service_;
  std::string folder_;
  std::string address_;
};

TEST_F(ServerTest, ServesOnAUnixSocketOfItsOwnerOnly) {
  auto server = StartServer();
  EXPECT_EQ(server->bound_address(), address_);
  EXPECT_TRUE(Score(address_).ok());
  struct stat info {};
  ASSERT_EQ(::stat((folder_ + "/s").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(ServerTest, ServesOnAFreePort) {
  auto server = StartServer({.address = "127.0.0.1:0"});
  EXPECT_THAT(server->bound_address(), testing::Not(testing::EndsWith(":0")));
  EXPECT_TRUE(Score(server->bound_address()).ok());
}

TEST_F(ServerTest, TakenAddressesAreRefused) {
  auto unix_server = StartServer();
  auto tcp_server = StartServer({.address = "127.0.0.1:0"});
  TestService other;
  EXPECT_EQ(Server::Start({.address = address_}, {&other}).status().code(),
            absl::StatusCode::kAlreadyExists);
  const absl::Status taken =
      Server::Start({.address = tcp_server->bound_address()}, {&other}).status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(taken.message()), HasSubstr(tcp_server->bound_address()));
  EXPECT_TRUE(Score(address_).ok());
  EXPECT_EQ(Server::Start({.address = "unix:" + folder_ + "/none/s"}, {&other}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(Server::Start({.address = "nonsense"}, {&other}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ServerTest, RestartsOnTheSocketOfItsPredecessor) {
  StartServer().reset();
  auto server = StartServer();
  EXPECT_TRUE(Score(address_).ok());
}

TEST_F(ServerTest, HealthFollowsSetServing) {
  auto server = StartServer({.serving = false});
  auto channel = Connect(address_).value();
  ASSERT_TRUE(WaitForReady(channel, Soon()).ok());
  EXPECT_EQ(CheckHealth(channel, "", Soon()).value(), false);
  server->SetServing(true);
  EXPECT_EQ(CheckHealth(channel, "", Soon()).value(), true);
  EXPECT_EQ(CheckHealth(channel, "no.such.Service", Soon()).status().code(),
            absl::StatusCode::kNotFound);
}

// What reflection answers at the address to "list the services"; empty where it is refused.
std::string ListServices(const std::string& address) {
  grpc::GenericStub stub(Connect(address).value());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(Soon()));
  struct Reactor : grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
    void OnReadDone(bool ok) override {
      std::vector<grpc::Slice> slices;
      if (ok && answer.Dump(&slices).ok()) {
        for (const grpc::Slice& slice : slices) {
          text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
        }
      }
      StartWritesDone();
    }
    void OnDone(const grpc::Status&) override { done.Notify(); }
    grpc::ByteBuffer answer;
    std::string text;
    absl::Notification done;
  } reactor;
  stub.PrepareBidiStreamingCall(&context,
                                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                grpc::StubOptions(), &reactor);
  const grpc::Slice list_services("\x3a\x01*");  // ServerReflectionRequest{list_services: "*"}
  const grpc::ByteBuffer request(&list_services, 1);
  reactor.StartCall();
  reactor.StartRead(&reactor.answer);
  reactor.StartWrite(&request);
  reactor.done.WaitForNotification();
  return reactor.text;
}

TEST_F(ServerTest, ReflectionIsOnTheAdminPortAlone) {
  auto server = StartServer({.address = "127.0.0.1:0"});
  auto admin = AdminServer::Start("127.0.0.1:0", "reference").value();
  EXPECT_EQ(ListServices(server->bound_address()), "");
  const std::string listed = ListServices(admin->bound_address());
  EXPECT_THAT(listed, HasSubstr("rollcall.v1.LogProb"));
  EXPECT_THAT(listed, HasSubstr("grpc.health.v1.Health"));
  EXPECT_THAT(listed, testing::Not(HasSubstr("rollcall.v1.Weights")));
  EXPECT_EQ(Score(admin->bound_address()).code(), absl::StatusCode::kUnimplemented);
}

TEST_F(ServerTest, AdminHealthFollowsSetServing) {
  auto admin = AdminServer::Start(address_, "reference").value();
  auto channel = Connect(address_).value();
  ASSERT_TRUE(WaitForReady(channel, Soon()).ok());
  EXPECT_EQ(CheckHealth(channel, "", Soon()).value(), false);
  EXPECT_EQ(CheckHealth(channel, "live", Soon()).value(), true);
  EXPECT_EQ(CheckHealth(channel, "ready", Soon()).value(), false);
  admin->SetServing(true);
  EXPECT_EQ(CheckHealth(channel, "", Soon()).value(), true);
  EXPECT_EQ(CheckHealth(channel, "ready", Soon()).value(), true);
  // A generator that waits for weights is alive.
  admin->SetServing(false);
  EXPECT_EQ(CheckHealth(channel, "ready", Soon()).value(), false);
  EXPECT_EQ(CheckHealth(channel, "live", Soon()).value(), true);
  admin->SetServing(true);
  admin->SetLive(false);
  EXPECT_EQ(CheckHealth(channel, "live", Soon()).value(), false);
  EXPECT_EQ(CheckHealth(channel, "ready", Soon()).value(), true);
}

TEST_F(ServerTest, ConnectionsBeyondTheLimitAreClosedAndMakeRoom) {
  metrics::Registry metrics;
  auto server = StartServer({.address = "127.0.0.1:0", .metrics = &metrics, .max_connections = 2});
  auto open = [&] {
    grpc::ChannelArguments own;
    own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(server->bound_address(), grpc::InsecureChannelCredentials(),
                                     own);
  };
  auto first = open();
  auto second = open();
  ASSERT_TRUE(WaitForReady(first, Soon()).ok());
  ASSERT_TRUE(WaitForReady(second, Soon()).ok());
  auto third = open();
  EXPECT_FALSE(CheckHealth(third, "", Soon()).ok());
  EXPECT_THAT(metrics.Text(), testing::Not(HasSubstr("rollcall_connections_refused_total 0")));
  first.reset();
  // The third comes in once the first is gone.
  EXPECT_TRUE(WaitForReady(third, Soon()).ok());
  EXPECT_TRUE(CheckHealth(second, "", Soon()).value());
}

TEST_F(ServerTest, CallsAreCountedByMethodAndStatus) {
  metrics::Registry metrics;
  service_.answer = [](int attempt) {
    return attempt == 1 ? absl::OkStatus() : absl::InvalidArgumentError("no");
  };
  auto server = StartServer({.metrics = &metrics});
  EXPECT_TRUE(Score(address_).ok());
  EXPECT_EQ(Score(address_).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(server->Drain(Soon()).ok());
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("rollcall_rpc_server_calls_total{code=\"OK\",method=\"rollcall.v1."
                              "LogProb/Score\"} 1"));
  EXPECT_THAT(text, HasSubstr("rollcall_rpc_server_calls_total{code=\"INVALID_ARGUMENT\",method="
                              "\"rollcall.v1.LogProb/Score\"} 1"));
  EXPECT_THAT(text, HasSubstr("rollcall_rpc_server_seconds_count{method=\"rollcall.v1.LogProb/"
                              "Score\"} 2"));
}

TEST_F(ServerTest, PlainTextStaysOnThisMachine) {
  TestService other;
  const absl::Status refused = Server::Start({.address = "0.0.0.0:0"}, {&other}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("security.insecure"));
  EXPECT_EQ(Connect("generator.example:7401").status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Connect("generator.example:7401", {.security = {.insecure = true}}).ok());
  EXPECT_TRUE(
      Server::Start({.address = "0.0.0.0:0", .security = {.insecure = true}}, {&other}).ok());
}

TEST_F(ServerTest, MessagesUpToTheLimitPass) {
  auto server = StartServer();
  EXPECT_TRUE(Score(address_, kMaxMessageBytes - 100).ok());
  EXPECT_EQ(Score(address_, kMaxMessageBytes + 100).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Score(address_).ok());
}

TEST_F(ServerTest, ServersOwnLimitHoldsAgainstAnyClient) {
  auto server = StartServer({.max_receive_bytes = 1000});
  EXPECT_EQ(Score(address_, 2000).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(service_.attempts, 0);
  EXPECT_TRUE(Score(address_, 500).ok());
}

TEST_F(ServerTest, LongStatusMessagesArrive) {
  service_.answer = [](int) { return absl::InvalidArgumentError(std::string(100000, 'x')); };
  auto server = StartServer();
  const absl::Status status = Score(address_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::StartsWith("xxx"));
}

TEST_F(ServerTest, DrainLetsRunningCallsFinishAndRefusesNewOnes) {
  service_.hold = true;
  auto server = StartServer();
  absl::Status running;
  std::thread caller([&] { running = Score(address_); });
  ASSERT_TRUE(service_.entered.WaitForNotificationWithTimeout(kPatience));
  absl::Status drained = absl::UnknownError("not run");
  std::thread drainer([&] { drained = server->Drain(Soon()); });
  // New calls end up refused; health says so first, on a connection that is still open.
  auto channel = Connect(address_).value();
  while (CheckHealth(channel, "", Soon()).value_or(false)) {
  }
  service_.Finish();
  caller.join();
  drainer.join();
  EXPECT_TRUE(running.ok()) << running;
  EXPECT_TRUE(drained.ok()) << drained;
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/s"));
  EXPECT_FALSE(CheckHealth(channel, "", Soon()).ok());
}

TEST_F(ServerTest, DrainCancelsWhatRunsAtTheDeadline) {
  service_.hold = true;
  auto server = StartServer();
  absl::Status running;
  std::thread caller([&] { running = Score(address_); });
  ASSERT_TRUE(service_.entered.WaitForNotificationWithTimeout(kPatience));
  EXPECT_EQ(server->Drain(absl::Now() + absl::Milliseconds(20)).code(),
            absl::StatusCode::kDeadlineExceeded);
  caller.join();
  EXPECT_FALSE(running.ok());
}

TEST_F(ServerTest, DestructionCancelsRunningCalls) {
  service_.hold = true;
  auto server = StartServer();
  absl::Status running;
  std::thread caller([&] { running = Score(address_); });
  ASSERT_TRUE(service_.entered.WaitForNotificationWithTimeout(kPatience));
  server.reset();
  caller.join();
  EXPECT_FALSE(running.ok());
}

// A client that watches health holds a stream open; it must not keep an idle server from ending.
TEST_F(ServerTest, HealthWatcherDoesNotHoldUpTheDrain) {
  auto server = StartServer();
  grpc::GenericStub stub(Connect(address_).value());
  grpc::ClientContext context;
  struct Reactor : grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
    void OnReadDone(bool ok) override {
      if (!first_read.HasBeenNotified()) first_read.Notify();
      if (ok) StartRead(&answer);
    }
    void OnDone(const grpc::Status&) override { done.Notify(); }
    grpc::ByteBuffer answer;
    absl::Notification first_read;
    absl::Notification done;
  } reactor;
  stub.PrepareBidiStreamingCall(&context, "/grpc.health.v1.Health/Watch", grpc::StubOptions(),
                                &reactor);
  const grpc::Slice nothing;
  const grpc::ByteBuffer empty(&nothing, 1);
  reactor.StartCall();
  reactor.StartRead(&reactor.answer);
  reactor.StartWriteLast(&empty, grpc::WriteOptions());
  ASSERT_TRUE(reactor.first_read.WaitForNotificationWithTimeout(kPatience));
  EXPECT_TRUE(server->Drain(absl::InfiniteFuture()).ok());
  reactor.done.WaitForNotification();
}

}  // namespace
}  // namespace rollcall::rpc
