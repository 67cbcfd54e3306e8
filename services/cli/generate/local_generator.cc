#include "services/cli/generate/local_generator.h"

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/run_config.h"
#include "common/config/yaml.h"
#include "common/rpc/channel.h"
#include "rollcall/v1/weights.grpc.pb.h"
#include "services/cli/train/local_services.h"

namespace rollcall::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);

bool Ready(v1::Weights::Stub& stub) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
  v1::ServerState state;
  return stub.GetState(&context, {}, &state).ok() && state.ready();
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalGenerator>> LocalGenerator::Start(
    const std::string& model, const std::vector<std::string>& sets, Shutdown& shutdown) {
  std::string folder = "/tmp/rollcall-generate-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr)
    return absl::ErrnoToStatus(errno, "mkdtemp /tmp/rollcall-generate-XXXXXX");
  auto generator = std::unique_ptr<LocalGenerator>(new LocalGenerator(folder));
  ROLLCALL_RETURN_IF_ERROR(generator->Launch(model, sets));
  ROLLCALL_RETURN_IF_ERROR(generator->AwaitReady(shutdown));
  return generator;
}

LocalGenerator::~LocalGenerator() {
  channel_.reset();
  if (supervisor_) supervisor_->StopAll();
  RemoveTree(folder_).IgnoreError();
}

absl::Status LocalGenerator::Launch(const std::string& model,
                                    const std::vector<std::string>& sets) {
  std::vector<std::string> all_sets = {absl::StrCat("model.path=", model)};
  all_sets.insert(all_sets.end(), sets.begin(), sets.end());
  ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig config,
                            config::LoadRunConfig("", all_sets, config::Role::kGenerator));
  const std::string config_path = folder_ + "/config.yaml";
  ROLLCALL_RETURN_IF_ERROR(
      WriteFileAtomically(config_path, config::FormatYaml(config, config::Secrets::kKeep)));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string binaries, OwnFolder());

  const std::string address = absl::StrCat("unix:", folder_, "/generator.sock");
  log_path_ = folder_ + "/generator.log";
  ServiceSpec spec;
  spec.child = {.name = "generator",
                .argv = {binaries + "/rollcall-generator", "--config", config_path, "--listen",
                         address, "--log-level", "warn"},
                .log_path = log_path_};
  supervisor_ = std::make_unique<Supervisor>(std::vector<ServiceSpec>{std::move(spec)},
                                             SupervisorOptions{.drain = absl::Seconds(5)});
  ROLLCALL_RETURN_IF_ERROR(supervisor_->StartAll());
  ROLLCALL_ASSIGN_OR_RETURN(channel_, rpc::Connect(address));
  return absl::OkStatus();
}

absl::Status LocalGenerator::AwaitReady(Shutdown& shutdown) {
  const auto stub = v1::Weights::NewStub(channel_);
  while (!Ready(*stub)) {
    if (shutdown.requested()) return absl::CancelledError("interrupted");
    ROLLCALL_ASSIGN_OR_RETURN(const std::optional<ChildExit> ended, supervisor_->Step(kTick));
    if (ended) {
      return absl::InvalidArgumentError(absl::StrCat("the generator ended with ", ended->Describe(),
                                                     ":\n", ReadFile(log_path_).value_or("")));
    }
  }
  return absl::OkStatus();
}

}  // namespace rollcall::cli
