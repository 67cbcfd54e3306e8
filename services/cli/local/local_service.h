#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "common/config/run_config.h"
#include "services/cli/process/supervisor.h"

namespace rollcall::cli {

// One service of this machine that lives as long as this object, over a private Unix socket, for
// commands that need no run. Used from the main thread.
class LocalService {
 public:
  enum class Kind { kGenerator, kReference, kReward, kRewardModel };

  // Starts it and waits until it serves. `sets` are all of its configuration
  // ("model.path=/models/a"). INVALID_ARGUMENT for what it refuses, with its own words; CANCELLED
  // when shutdown is requested first.
  static absl::StatusOr<std::unique_ptr<LocalService>> Start(Kind kind,
                                                             const std::vector<std::string>& sets,
                                                             Shutdown& shutdown);
  // The same from a whole configuration. `flags` are further ones of the binary.
  static absl::StatusOr<std::unique_ptr<LocalService>> Start(
      Kind kind, const v1::RunConfig& config, Shutdown& shutdown,
      const std::vector<std::string>& flags = {});
  ~LocalService();

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const std::string& address() const { return address_; }  // "unix:/…"

  // OK while it runs; else how it ended. Does not block.
  absl::Status Check();

 private:
  LocalService(std::string name, std::string folder)
      : name_(std::move(name)), folder_(std::move(folder)) {}
  absl::Status Launch(const v1::RunConfig& config, const std::vector<std::string>& flags);
  absl::Status AwaitServing(Shutdown& shutdown);
  // Lets the supervisor look for an end, for at most `longest`.
  absl::Status Step(absl::Duration longest);

  const std::string name_;    // "generator"
  const std::string folder_;  // removed at the end
  std::string address_;
  std::string log_path_;
  std::unique_ptr<Supervisor> supervisor_;
  std::shared_ptr<grpc::Channel> channel_;
};

// A reward service and the servers of the reward models that `config` has no address for.
class LocalReward {
 public:
  // The statuses of LocalService::Start.
  static absl::StatusOr<LocalReward> Start(v1::RunConfig config, Shutdown& shutdown);

  const std::shared_ptr<grpc::Channel>& channel() const { return services_.back()->channel(); }
  // OK while all run; else how one ended.
  absl::Status Check();

 private:
  LocalReward() = default;
  std::vector<std::unique_ptr<LocalService>> services_;  // models first, the reward service last
};

// A channel to `connect` where it is given, secured as `sets` say (security.…), else to a service of
// `kind` that is started with `sets`
// and put into `started`, which must outlive the channel's use.
absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectOrStart(
    const std::string& connect, LocalService::Kind kind, const std::vector<std::string>& sets,
    Shutdown& shutdown, std::unique_ptr<LocalService>& started);

}  // namespace rollcall::cli
