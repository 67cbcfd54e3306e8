#include "common/rpc/server.h"

#include <grpc/grpc.h>
#include <grpc/impl/codegen/grpc_types.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>

#include <cerrno>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/base/status.h"
#include "common/rpc/access_check.h"
#include "common/rpc/address.h"
#include "common/rpc/call_counter.h"
#include "common/rpc/listener.h"

namespace rollcall::rpc {
namespace {

// How long a drained server waits for what is left before it cancels it, again and again.
constexpr absl::Duration kCancelInterval = absl::Milliseconds(50);

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

void SetLimits(const ServerOptions& options, grpc::ServerBuilder* builder) {
  grpc::ResourceQuota quota("rollcall");
  quota.Resize(options.max_memory_bytes);
  builder->SetResourceQuota(quota);
  builder->SetMaxReceiveMessageSize(options.max_receive_bytes);
  builder->SetMaxSendMessageSize(options.max_send_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_concurrent_streams);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, options.max_metadata_bytes);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                              Milliseconds(options.handshake_timeout));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              Milliseconds(options.keepalive_timeout));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              Milliseconds(kMinPingInterval));
  // Without this a second server would share a taken TCP port and receive some of the calls.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
}

// Takes reflection away, which its library puts on every server of the process.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const std::unique_ptr<grpc::ServerBuilderPlugin>& plugin) {
      return plugin->name() == "proto_server_reflection";
    });
  }
};

std::shared_ptr<grpc::ServerCredentials> CredentialsFor(const ServerOptions& options,
                                                        const Address& address) {
  if (!options.security.UsesTls(address)) return grpc::InsecureServerCredentials();
  std::shared_ptr<grpc::ServerCredentials> credentials = options.security.identity->ForServer();
  credentials->SetAuthMetadataProcessor(
      MakeAccessCheck(AccessPolicy(options.policy, options.service), options.metrics));
  return credentials;
}

// What hands the listener's connections to gRPC.
Listener::Handler HandOver(
    std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor) {
  std::shared_ptr<grpc::experimental::ExternalConnectionAcceptor> shared = std::move(acceptor);
  return [shared](int listener, int connection) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
    parameters.listener_fd = listener;
    parameters.fd = connection;
    shared->HandleNewConnection(&parameters);
  };
}

}  // namespace

ServerOptions ServerOptionsOf(const v1::SecuritySection& config, Security security) {
  const v1::LimitsSection& limits = config.limits();
  ServerOptions options;
  options.security = std::move(security);
  options.policy = config;
  options.max_connections = static_cast<int>(limits.max_connections());
  options.max_concurrent_streams = static_cast<int>(limits.max_streams());
  options.max_metadata_bytes = static_cast<int>(limits.max_metadata_bytes());
  options.max_memory_bytes = limits.memory_bytes();
  options.handshake_timeout = absl::Seconds(limits.handshake_timeout());
  options.keepalive_time = absl::Seconds(limits.keepalive_time());
  options.keepalive_timeout = absl::Seconds(limits.keepalive_timeout());
  return options;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const std::vector<grpc::Service*>& services) {
  ROLLCALL_ASSIGN_OR_RETURN(Address address, ParseAddress(options.address));
  if (!options.security.UsesTls(address)) {
    ROLLCALL_RETURN_IF_ERROR(options.security.CheckPlaintext(address));
  }
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<WithoutReflection>());
  SetLimits(options, &builder);
  std::unique_ptr<Listener> listener;
  Listener::Handler handler;
  if (address.is_unix()) {
    ROLLCALL_RETURN_IF_ERROR(RemoveStaleUnixSocket(address.unix_path));
    builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials());
  } else {
    ROLLCALL_ASSIGN_OR_RETURN(
        listener, Listener::Bind(address, static_cast<size_t>(options.max_connections)));
    address.port = listener->port();
    handler = HandOver(builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        CredentialsFor(options, address)));
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::shared_ptr<CallCounter> calls = CallCounter::Install(&builder, options.metrics);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address.ToString(),
                                               ": taken, or no such address or folder"));
  }
  if (address.is_unix() && ::chmod(address.unix_path.c_str(), 0600) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot protect ", address.unix_path));
  }
  if (listener != nullptr && options.metrics != nullptr) listener->Export(options.metrics);
  std::unique_ptr<Server> started(
      new Server(std::move(server), std::move(listener), std::move(calls), address.ToString()));
  started->SetServing(options.serving);
  if (started->listener_ != nullptr) started->listener_->Start(std::move(handler));
  return started;
}

Server::Server(std::unique_ptr<grpc::Server> server, std::unique_ptr<Listener> listener,
               std::shared_ptr<CallCounter> calls, std::string bound_address)
    : server_(std::move(server)),
      listener_(std::move(listener)),
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
  if (listener_ != nullptr) listener_->Stop();
  server_->GetHealthCheckService()->Shutdown();
  absl::Notification done;
  std::thread shutdown([&] {
    // Without a limit of its own: were it to cancel at the deadline, a call that ends by that could
    // pass for finished.
    server_->Shutdown(absl::ToChronoTime(absl::InfiniteFuture()));
    done.Notify();
  });
  const bool idle = calls_->AwaitIdle(deadline);
  // What is left are calls past the deadline, or streams that watch health, for which
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
