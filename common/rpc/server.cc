#include "common/rpc/server.h"

#include <grpc/grpc.h>
#include <grpc/impl/codegen/grpc_types.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>

#include <cerrno>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/status.h"
#include "common/rpc/address.h"
#include "common/rpc/call_counter.h"

namespace rollcall::rpc {
namespace {

// How long a drained server waits for what is left before it cancels it, again and again.
constexpr absl::Duration kCancelInterval = absl::Milliseconds(50);

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

void SetLimits(const ServerOptions& options, grpc::ServerBuilder* builder) {
  grpc::ResourceQuota quota("rollcall");
  quota.Resize(options.max_memory_bytes);
  builder->SetResourceQuota(quota);
  builder->SetMaxReceiveMessageSize(options.max_receive_bytes);
  builder->SetMaxSendMessageSize(options.max_send_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              Milliseconds(options.keepalive_timeout));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              Milliseconds(kMinPingInterval));
  // Without this a second server would share a taken TCP port and receive some of the calls.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const std::vector<grpc::Service*>& services) {
  ROLLCALL_ASSIGN_OR_RETURN(Address address, ParseAddress(options.address));
  if (address.is_unix()) ROLLCALL_RETURN_IF_ERROR(RemoveStaleUnixSocket(address.unix_path));
  EnableHealthAndReflection();
  grpc::ServerBuilder builder;
  SetLimits(options, &builder);
  int port = 0;
  builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials(), &port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::shared_ptr<CallCounter> calls = CallCounter::Install(&builder);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address.ToString(),
                                               ": taken, or no such address or folder"));
  }
  if (address.is_unix()) {
    if (::chmod(address.unix_path.c_str(), 0600) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot protect ", address.unix_path));
    }
  } else {
    address.port = static_cast<uint16_t>(port);
  }
  std::unique_ptr<Server> started(
      new Server(std::move(server), std::move(calls), address.ToString()));
  started->SetServing(options.serving);
  return started;
}

Server::Server(std::unique_ptr<grpc::Server> server, std::shared_ptr<CallCounter> calls,
               std::string bound_address)
    : server_(std::move(server)),
      calls_(std::move(calls)),
      bound_address_(std::move(bound_address)) {}

Server::~Server() {
  if (!drained_) Drain(absl::UnixEpoch()).IgnoreError();
}

void Server::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

absl::Status Server::Drain(absl::Time deadline) {
  drained_ = true;
  server_->GetHealthCheckService()->Shutdown();
  absl::Notification done;
  std::thread shutdown([&] {
    // Without a limit of its own: were it to cancel at the deadline, a call that ends by that could
    // pass for finished.
    server_->Shutdown(absl::ToChronoTime(absl::InfiniteFuture()));
    done.Notify();
  });
  const bool idle = calls_->AwaitIdle(deadline);
  // What is left are calls past the deadline, or streams that watch health or reflection, for which
  // gRPC would wait. The interval lets the last answers leave, and ends a call that came between
  // the cancel and the closing of the listener.
  while (!done.WaitForNotificationWithTimeout(kCancelInterval)) {
    grpc_server_cancel_all_calls(server_->c_server());
  }
  shutdown.join();
  server_->Wait();
  if (!idle) {
    return absl::DeadlineExceededError(
        "calls still running at the drain's deadline were cancelled");
  }
  return absl::OkStatus();
}

}  // namespace rollcall::rpc
