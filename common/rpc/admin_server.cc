#include "common/rpc/admin_server.h"

#include <grpc/impl/codegen/grpc_types.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/method_handler.h>
#include <sys/stat.h>

#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/access_policy.h"
#include "common/rpc/address.h"

namespace rollcall::rpc {

// Makes the server know the names of the services, of which reflection tells, without their
// methods. gRPC takes one name of each object.
class ListedServices {
 public:
  explicit ListedServices(std::string_view server) {
    std::set<std::string> services;
    for (const AccessRule& rule : BuiltInPolicy()) {
      if (rule.server == server) services.emplace(rule.service);
    }
    for (const std::string& service : services) listed_.push_back(std::make_unique<One>(service));
  }

  void Register(grpc::ServerBuilder* builder) const {
    for (const std::unique_ptr<One>& one : listed_) builder->RegisterService(one.get());
  }

 private:
  class One final : public grpc::Service {
   public:
    explicit One(const std::string& service) : path_("/" + service + "/OnTheDataPort") {
      AddMethod(new grpc::internal::RpcServiceMethod(
          path_.c_str(), grpc::internal::RpcMethod::NORMAL_RPC,
          new grpc::internal::UnknownMethodHandler("data RPCs are served on the data port")));
    }

   private:
    const std::string path_;
  };

  std::vector<std::unique_ptr<One>> listed_;
};

namespace {

// A kubelet and a few people; each call is small.
constexpr int kAdminMessageBytes = 64 << 10;
constexpr size_t kAdminMemoryBytes = 64 << 20;
constexpr int kAdminThreads = 16;
constexpr int kAdminStreams = 32;
constexpr int kHandshakeMilliseconds = 5000;
// A probe's connection ends with it; one that is left open is closed after this long.
constexpr int kIdleMilliseconds = 60000;

}  // namespace

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& address,
                                                                std::string_view service) {
  ROLLCALL_ASSIGN_OR_RETURN(Address parsed, ParseAddress(address));
  if (parsed.is_unix()) ROLLCALL_RETURN_IF_ERROR(RemoveStaleUnixSocket(parsed.unix_path));
  grpc::EnableDefaultHealthCheckService(true);
  // Some servers of this process may have been made without; naming the plugin keeps its library
  // linked, whose presence puts reflection on every server.
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto listed = std::make_unique<ListedServices>(service);
  grpc::ServerBuilder builder;
  grpc::ResourceQuota quota("rollcall-admin");
  quota.Resize(kAdminMemoryBytes).SetMaxThreads(kAdminThreads);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(kAdminMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kAdminStreams);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  int port = 0;
  builder.AddListeningPort(parsed.ToString(), grpc::InsecureServerCredentials(), &port);
  listed->Register(&builder);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", parsed.ToString(),
                                               ": taken, or no such address or folder"));
  }
  if (!parsed.is_unix()) {
    parsed.port = static_cast<uint16_t>(port);
  } else if (::chmod(parsed.unix_path.c_str(), 0600) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot protect ", parsed.unix_path));
  }
  return std::unique_ptr<AdminServer>(
      new AdminServer(std::move(server), std::move(listed), parsed.ToString()));
}

AdminServer::AdminServer(std::unique_ptr<grpc::Server> server,
                         std::unique_ptr<ListedServices> listed, std::string bound_address)
    : listed_(std::move(listed)),
      server_(std::move(server)),
      bound_address_(std::move(bound_address)) {
  SetServing(false);
  SetLive(true);
}

AdminServer::~AdminServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void AdminServer::SetServing(bool serving) {
  // By its name: without one gRPC would set every name, "live" too.
  server_->GetHealthCheckService()->SetServingStatus("", serving);
  server_->GetHealthCheckService()->SetServingStatus("ready", serving);
}

void AdminServer::SetLive(bool live) {
  server_->GetHealthCheckService()->SetServingStatus("live", live);
}

}  // namespace rollcall::rpc
