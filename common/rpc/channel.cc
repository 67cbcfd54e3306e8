#include "common/rpc/channel.h"

#include <grpc/impl/codegen/grpc_types.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/rpc/address.h"

namespace rollcall::rpc {
namespace {

// How long a request for shutdown may go unnoticed while a channel connects.
constexpr absl::Duration kShutdownCheck = absl::Milliseconds(100);

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

bool IsName(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '.';
  });
}

}  // namespace

absl::StatusOr<std::string> RetryServiceConfig(const std::vector<std::string>& methods) {
  if (methods.empty()) return std::string();
  std::vector<std::string> names;
  for (const std::string& method : methods) {
    const size_t slash = method.find('/');
    const std::string service = method.substr(0, slash);
    const std::string name = slash == std::string::npos ? "" : method.substr(slash + 1);
    if (!IsName(service) || !IsName(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("retry method \"", method, "\": expected package.Service/Method"));
    }
    names.push_back(absl::StrCat(R"({"service":")", service, R"(","method":")", name, R"("})"));
  }
  return absl::StrCat(R"({"methodConfig":[{"name":[)", absl::StrJoin(names, ","),
                      R"(],"retryPolicy":{"maxAttempts":)", kRetryAttempts,
                      R"(,"initialBackoff":"0.2s","maxBackoff":"2s","backoffMultiplier":2,)",
                      R"("retryableStatusCodes":["UNAVAILABLE"]}}]})");
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(std::string_view address,
                                                       const ChannelOptions& options) {
  ROLLCALL_ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  if (!parsed.is_unix() && parsed.port == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("address \"", parsed.ToString(), "\": port 0 cannot be connected to"));
  }
  const bool tls = options.security.UsesTls(parsed);
  if (!tls) ROLLCALL_RETURN_IF_ERROR(options.security.CheckPlaintext(parsed));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string config, RetryServiceConfig(options.retry_methods));
  grpc::ChannelArguments arguments;
  if (!config.empty()) arguments.SetServiceConfigJSON(config);
  arguments.SetMaxReceiveMessageSize(options.max_receive_bytes);
  arguments.SetMaxSendMessageSize(options.max_send_bytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_time));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no bound: silent calls are long
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Milliseconds(kReconnectBackoffMin));
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Milliseconds(kReconnectBackoffMin));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Milliseconds(kReconnectBackoffMax));
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1);
  return grpc::CreateCustomChannel(
      parsed.ToString(),
      tls ? options.security.identity->ForChannel() : grpc::InsecureChannelCredentials(),
      arguments);
}

absl::Status WaitForReady(const std::shared_ptr<grpc::Channel>& channel, absl::Time deadline,
                          const Shutdown* shutdown) {
  while (true) {
    if (shutdown != nullptr && shutdown->requested()) {
      return absl::CancelledError("shutting down while connecting");
    }
    const absl::Time until =
        shutdown == nullptr ? deadline : std::min(deadline, absl::Now() + kShutdownCheck);
    if (channel->WaitForConnected(absl::ToChronoTime(until))) return absl::OkStatus();
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError("not reachable before the deadline");
    }
  }
}

}  // namespace rollcall::rpc
