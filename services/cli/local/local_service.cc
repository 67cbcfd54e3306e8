#include "services/cli/local/local_service.h"

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/yaml.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "services/cli/train/local_services.h"

namespace rollcall::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
// As the services' own: a request of the reward service is the largest, 64 MiB.
constexpr int kMaxMessageBytes = 64 << 20;

struct KindNames {
  const char* name;
  config::Role role;
};

KindNames NamesOf(LocalService::Kind kind) {
  switch (kind) {
    case LocalService::Kind::kGenerator:
      return {"generator", config::Role::kGenerator};
    case LocalService::Kind::kReference:
      return {"reference", config::Role::kReference};
    case LocalService::Kind::kReward:
      return {"reward", config::Role::kReward};
    case LocalService::Kind::kRewardModel:
      return {"reward-model", config::Role::kRewardModel};
  }
  return {"", config::Role::kRun};
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Open(const std::string& address,
                                                    const rpc::Security& security = {}) {
  return rpc::Connect(address, {.retry_methods = {"rollcall.v1.LogProb/Score"},
                                .security = security,
                                .max_receive_bytes = kMaxMessageBytes,
                                .max_send_bytes = kMaxMessageBytes});
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalService>> LocalService::Start(
    Kind kind, const std::vector<std::string>& sets, Shutdown& shutdown) {
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig config,
                            config::LoadRunConfig("", sets, NamesOf(kind).role));
  return Start(kind, config, shutdown);
}

absl::StatusOr<std::unique_ptr<LocalService>> LocalService::Start(
    Kind kind, const v1::RunConfig& config, Shutdown& shutdown,
    const std::vector<std::string>& flags) {
  std::string folder = "/tmp/rollcall-local-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return absl::ErrnoToStatus(errno, "mkdtemp " + folder);
  auto service = std::unique_ptr<LocalService>(new LocalService(NamesOf(kind).name, folder));
  ROLLCALL_RETURN_IF_ERROR(service->Launch(config, flags));
  ROLLCALL_RETURN_IF_ERROR(service->AwaitServing(shutdown));
  return service;
}

LocalService::~LocalService() {
  channel_.reset();
  if (supervisor_) supervisor_->StopAll();
  RemoveTree(folder_).IgnoreError();
}

absl::Status LocalService::Launch(const v1::RunConfig& config,
                                  const std::vector<std::string>& flags) {
  const std::string config_path = folder_ + "/config.yaml";
  ROLLCALL_RETURN_IF_ERROR(
      WriteFileAtomically(config_path, config::FormatYaml(config, config::Secrets::kKeep)));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string binaries, OwnFolder());
  address_ = absl::StrCat("unix:", folder_, "/", name_, ".sock");
  log_path_ = absl::StrCat(folder_, "/", name_, ".log");
  ServiceSpec spec;
  spec.child = {.name = name_,
                .argv = {absl::StrCat(binaries, "/rollcall-", name_), "--config", config_path,
                         "--listen", address_, "--log-level", "warn"},
                .log_path = log_path_};
  spec.child.argv.insert(spec.child.argv.end(), flags.begin(), flags.end());
  supervisor_ = std::make_unique<Supervisor>(std::vector<ServiceSpec>{std::move(spec)},
                                             SupervisorOptions{.drain = absl::Seconds(5)});
  ROLLCALL_RETURN_IF_ERROR(supervisor_->StartAll());
  ROLLCALL_ASSIGN_OR_RETURN(channel_, Open(address_));
  return absl::OkStatus();
}

absl::Status LocalService::AwaitServing(Shutdown& shutdown) {
  while (!rpc::CheckHealth(channel_, "", absl::Now() + absl::Seconds(1)).value_or(false)) {
    if (shutdown.requested()) return absl::CancelledError("interrupted");
    ROLLCALL_RETURN_IF_ERROR(Step(kTick));
  }
  return absl::OkStatus();
}

absl::Status LocalService::Check() { return Step(absl::ZeroDuration()); }

absl::Status LocalService::Step(absl::Duration longest) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::optional<ChildExit> ended, supervisor_->Step(longest));
  if (!ended) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the ", name_, " ended with ", ended->Describe(),
                                                 ":\n", ReadFile(log_path_).value_or("")));
}

absl::StatusOr<LocalReward> LocalReward::Start(v1::RunConfig config, Shutdown& shutdown) {
  LocalReward reward;
  for (v1::VerifierConfig& verifier : *config.mutable_reward()->mutable_verifiers()) {
    if (!verifier.has_reward_model() || !verifier.reward_model().address().empty()) continue;
    ROLLCALL_ASSIGN_OR_RETURN(
        auto model, LocalService::Start(LocalService::Kind::kRewardModel, config, shutdown,
                                        {"--verifier", verifier.name()}));
    verifier.mutable_reward_model()->set_address(model->address());
    reward.services_.push_back(std::move(model));
  }
  ROLLCALL_ASSIGN_OR_RETURN(auto service,
                            LocalService::Start(LocalService::Kind::kReward, config, shutdown));
  reward.services_.push_back(std::move(service));
  return reward;
}

absl::Status LocalReward::Check() {
  for (const std::unique_ptr<LocalService>& service : services_) {
    ROLLCALL_RETURN_IF_ERROR(service->Check());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectOrStart(
    const std::string& connect, LocalService::Kind kind, const std::vector<std::string>& sets,
    Shutdown& shutdown, std::unique_ptr<LocalService>& started) {
  if (!connect.empty()) {
    v1::RunConfig config;
    constexpr std::string_view kSection[] = {"security"};
    ROLLCALL_RETURN_IF_ERROR(config::LoadYaml("", sets, &config, {.required_in = kSection}));
    ROLLCALL_ASSIGN_OR_RETURN(const rpc::Security security,
                              rpc::Security::FromConfig(config.security()));
    return Open(connect, security);
  }
  ROLLCALL_ASSIGN_OR_RETURN(started, LocalService::Start(kind, sets, shutdown));
  return started->channel();
}

}  // namespace rollcall::cli
