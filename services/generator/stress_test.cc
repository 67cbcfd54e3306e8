// Two hundred streams at once, of clients that read, cancel, disconnect, read slowly or send garbage.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <optional>
#include <thread>

#include "absl/synchronization/barrier.h"
#include "common/base/philox.h"
#include "common/checkpoint/scratch_folder.h"
#include "common/rpc/status_conversion.h"
#include "services/generator/testing/generator_server.h"
#include "services/generator/testing/requests.h"
#include "services/generator/testing/tiny_model.h"

namespace rollcall::generator {
namespace {

using testing::GeneratorServer;
using testing::Outcome;
using testing::Request;
using testing::SameSamples;

constexpr int kStreams = 200;

v1::GenerateRequest RandomRequest(uint64_t client) {
  PhiloxStream random(client, 21);
  // Some share a prompt.
  const uint64_t group = random.Below(3) == 0 ? random.Below(5) : 100 + client;
  v1::GenerateRequest request = Request(group, 1 + static_cast<uint32_t>(random.Below(150)),
                                        1 + static_cast<uint32_t>(random.Below(6)),
                                        1 + static_cast<uint32_t>(random.Below(60)));
  request.mutable_key()->set_group_id(client);
  return request;
}

// Who they are; each is the behaviour of a fifth of the clients.
class Clients {
 public:
  explicit Clients(GeneratorServer* server) : server_(server), outcomes_(kStreams) {}

  void Run() {
    absl::Barrier* start = new absl::Barrier(kStreams);
    std::vector<std::thread> threads;
    for (uint64_t client = 0; client < kStreams; ++client) {
      threads.emplace_back([this, client, start] {
        if (start->Block()) delete start;
        Behave(client);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  // Of those that were read to the end.
  const std::vector<std::optional<Outcome>>& outcomes() const { return outcomes_; }

 private:
  void Behave(uint64_t client) {
    switch (client % 5) {
      case 0:
        outcomes_[client] = server_->Generate(RandomRequest(client));
        return;
      case 1:
        return ReadSlowly(client);
      case 2:
        return Cancel(client);
      case 3:
        return Disconnect(client);
      default:
        return client % 2 == 0 ? SendGarbageBytes(client) : SendGarbageMessages(client);
    }
  }

  // Its own connection, which takes little ahead of its reads.
  std::unique_ptr<v1::Generator::Stub> OwnStub() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1 << 10);
    return v1::Generator::NewStub(grpc::CreateCustomChannel(
        server_->address(), grpc::InsecureChannelCredentials(), arguments));
  }

  // Others are served whole before it reads its first message, and between the next ones.
  void ReadSlowly(uint64_t client) {
    const auto stub = OwnStub();
    grpc::ClientContext context;
    GeneratorServer::SetDeadline(&context);
    const auto reader = stub->Generate(&context, RandomRequest(client));
    Outcome outcome;
    v1::GenerateResponse message;
    for (uint64_t reads = 0;; ++reads) {
      if (reads < 3) {
        EXPECT_TRUE(server_->Generate(Request(1000 + 3 * client + reads, 5, 1, 10)).status.ok());
      }
      if (!reader->Read(&message)) break;
      testing::Collect(message, &outcome);
    }
    outcome.status = rpc::FromGrpc(reader->Finish());
    outcomes_[client] = std::move(outcome);
  }

  void Cancel(uint64_t client) {
    grpc::ClientContext context;
    GeneratorServer::SetDeadline(&context);
    const auto reader = server_->generator().Generate(&context, RandomRequest(client));
    v1::GenerateResponse message;
    for (uint64_t reads = client % 7; reads > 0 && reader->Read(&message); --reads) continue;
    context.TryCancel();
    if (client % 2 == 0) reader->Finish();
  }

  // Its connection goes away with the call.
  void Disconnect(uint64_t client) {
    const auto stub = OwnStub();
    grpc::ClientContext context;
    GeneratorServer::SetDeadline(&context);
    const auto reader = stub->Generate(&context, RandomRequest(client));
    v1::GenerateResponse message;
    for (uint64_t reads = client % 3; reads > 0 && reader->Read(&message); --reads) continue;
    context.TryCancel();
  }

  // Random bytes instead of a gRPC connection; also some that begin like one.
  void SendGarbageBytes(uint64_t client) {
    PhiloxStream random(client, 4);
    const int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    server_->address().copy(address.sun_path, sizeof(address.sun_path) - 1, sizeof("unix:") - 1);
    ASSERT_EQ(connect(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    std::string bytes = client % 4 == 0 ? "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" : "";
    for (int i = 0; i < 3000; ++i) bytes.push_back(static_cast<char>(random.Below(256)));
    // The server may hang up in between.
    [[maybe_unused]] const ssize_t sent = send(socket_fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    close(socket_fd);
  }

  // Well-formed calls whose message is no GenerateRequest.
  void SendGarbageMessages(uint64_t client) {
    PhiloxStream random(client, 4);
    std::string bytes(1 + random.Below(200), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random.Below(256));
    grpc::Slice slice(bytes);
    grpc::ByteBuffer request(&slice, 1);
    grpc::GenericStub stub(
        grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    GeneratorServer::SetDeadline(&context);
    grpc::CompletionQueue queue;
    grpc::ByteBuffer response;
    const auto call =
        stub.PrepareUnaryCall(&context, "/rollcall.v1.Generator/Generate", request, &queue);
    call->StartCall();
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    EXPECT_FALSE(status.ok());
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) continue;
  }

  GeneratorServer* const server_;
  std::vector<std::optional<Outcome>> outcomes_;
};

TEST(StressTest, TwoHundredStreamsLeaveNothingBehindAndWhatCompletesIsRight) {
  checkpoint::ScratchFolder scratch;
  ASSERT_TRUE(
      testing::WriteTinyFolder(scratch / "model", testing::TinyDecoder(at::kFloat, 1)).ok());
  GeneratorServer server(scratch / "model",
                         {"generator.kv_cache_bytes=600000", "generator.max_running_samples=48",
                          "generator.max_step_tokens=200"});
  Clients clients(&server);
  clients.Run();
  const auto idle = [](const v1::ServerState& state) {
    return state.running_samples() + state.waiting_samples() == 0 &&
           state.kv_tokens_free() == state.kv_tokens_total();
  };
  EXPECT_TRUE(server.AwaitState(idle));
  EXPECT_THAT(server.metrics_text(),
              ::testing::HasSubstr("rollcall_generator_running_samples 0\n"));
  EXPECT_THAT(server.metrics_text(),
              ::testing::HasSubstr("rollcall_generator_waiting_samples 0\n"));
  EXPECT_THAT(server.metrics_text(),
              ::testing::Not(::testing::HasSubstr("rollcall_generator_preemptions_total 0\n")));

  // A fifth of the clients cancels, a fifth disconnects; some of them before anything ran.
  EXPECT_TRUE(testing::CancelsWithinAStep(server.metrics_text(), kStreams / 10));

  // What was read to the end is what each request gives alone.
  int completed = 0;
  for (uint64_t client = 0; client < kStreams; ++client) {
    const std::optional<Outcome>& outcome = clients.outcomes()[client];
    if (!outcome.has_value()) continue;
    ASSERT_TRUE(outcome->status.ok()) << "client " << client << ": " << outcome->status;
    ++completed;
    EXPECT_TRUE(SameSamples(*outcome, server.Generate(RandomRequest(client))))
        << "client " << client;
  }
  EXPECT_EQ(completed, 2 * kStreams / 5);
  EXPECT_TRUE(server.AwaitState(idle));
}

}  // namespace
}  // namespace rollcall::generator
