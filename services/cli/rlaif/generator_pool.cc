#include "services/cli/rlaif/generator_pool.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/machine_limits.h"
#include "common/base/status.h"
#include "common/config/yaml.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "common/rpc/status_conversion.h"
#include "rollcall/v1/weights.grpc.pb.h"
#include "services/cli/train/local_services.h"

namespace rollcall::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kDrain = absl::Seconds(5);
constexpr absl::Duration kStateTime = absl::Seconds(10);
constexpr size_t kLogLinesShown = 12;

// What the generators read: the run's own settings with these weights.
v1::RunConfig GeneratorConfig(const v1::RunConfig& run, const std::string& model_path) {
  v1::RunConfig config = run;
  if (model_path != run.model().path()) {
    config.mutable_model()->set_path(model_path);
    config.mutable_model()->set_context_tokens(0);  // the setting is the policy's
  }
  v1::GeneratorSection& generator = *config.mutable_generator();
  generator.set_wait_for_weights(false);
  if (generator.replicas() > 1) generator.clear_metrics_listen();  // one address for them all
  if (generator.threads() == 0) {
    const uint32_t cores = ReadMachineLimits().usable_cores();
    generator.set_threads(std::max(1u, cores / std::max(1u, generator.replicas())));
  }
  return config;
}

std::string EndOf(const std::string& log_path) {
  std::vector<std::string> lines =
      absl::StrSplit(ReadFile(log_path).value_or(""), '\n', absl::SkipEmpty());
  if (lines.size() > kLogLinesShown) {
    lines.erase(lines.begin(), lines.end() - static_cast<ptrdiff_t>(kLogLinesShown));
  }
  return absl::StrCat("the end of ", log_path, ":\n", absl::StrJoin(lines, "\n"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GeneratorPool>> GeneratorPool::Start(
    const v1::RunConfig& config, const std::string& model_path, const std::string& role,
    const RunLayout& layout, std::function<void(const std::string&)> notice, Shutdown& shutdown) {
  const std::string config_path = absl::StrCat(layout.sockets, "/", role, ".yaml");
  auto pool = std::unique_ptr<GeneratorPool>(new GeneratorPool(model_path, config_path));
  ROLLCALL_ASSIGN_OR_RETURN(pool->tokenizer_, text::Tokenizer::Load(model_path));
  ROLLCALL_RETURN_IF_ERROR(pool->Launch(config, role, layout, std::move(notice)));
  ROLLCALL_RETURN_IF_ERROR(pool->AwaitServing(config, shutdown));
  return pool;
}

GeneratorPool::~GeneratorPool() {
  channels_.clear();
  if (supervisor_) supervisor_->StopAll();
  RemoveTree(config_path_).IgnoreError();
}

absl::Status GeneratorPool::Launch(const v1::RunConfig& config, const std::string& role,
                                   const RunLayout& layout,
                                   std::function<void(const std::string&)> notice) {
  const v1::RunConfig own = GeneratorConfig(config, model_path_);
  ROLLCALL_RETURN_IF_ERROR(
      WriteFileAtomically(config_path_, config::FormatYaml(own, config::Secrets::kKeep)));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string binaries, OwnFolder());
  std::vector<ServiceSpec> specs;
  for (uint32_t i = 0; i < std::max(1u, own.generator().replicas()); ++i) {
    const std::string name = absl::StrCat(role, "-", i);
    log_paths_.push_back(layout.LogPath(name));
    ServiceSpec& spec = specs.emplace_back();
    spec.stateless = true;
    spec.child = {.name = name,
                  .argv = {binaries + "/rollcall-generator", "--config", config_path_, "--listen",
                           layout.Address(name)},
                  .log_path = log_paths_.back()};
    ROLLCALL_ASSIGN_OR_RETURN(auto channel, rpc::Connect(layout.Address(name)));
    channels_.push_back(std::move(channel));
  }
  supervisor_ = std::make_unique<Supervisor>(
      std::move(specs), SupervisorOptions{.drain = kDrain, .notice = std::move(notice)});
  return supervisor_->StartAll();
}

absl::Status GeneratorPool::AwaitServing(const v1::RunConfig& config, Shutdown& shutdown) {
  const absl::Time deadline = absl::Now() + absl::Seconds(config.rpc().connect_timeout());
  for (size_t i = 0; i < channels_.size(); ++i) {
    while (!rpc::CheckHealth(channels_[i], "", absl::Now() + absl::Seconds(1)).value_or(false)) {
      if (shutdown.requested()) return absl::CancelledError("interrupted");
      ROLLCALL_RETURN_IF_ERROR(Step(kTick));
      if (absl::Now() < deadline) continue;
      return absl::DeadlineExceededError(
          absl::StrCat("no generator came up within "
                       "rpc.connect_timeout; ",
                       EndOf(log_paths_[i])));
    }
  }
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kStateTime));
  v1::ServerState state;
  ROLLCALL_RETURN_IF_ERROR(
      rpc::FromGrpc(v1::Weights::NewStub(channels_.front())->GetState(&context, {}, &state)));
  context_length_ = state.context_length();
  weights_hash_ = absl::BytesToHexString(state.version().manifest_hash());
  return absl::OkStatus();
}

absl::Status GeneratorPool::Check() { return Step(absl::ZeroDuration()); }

absl::Status GeneratorPool::Step(absl::Duration longest) {
  const absl::Status looked = supervisor_->Step(longest).status();
  if (looked.ok()) return looked;
  std::vector<std::string> ends;
  for (const std::string& path : log_paths_) ends.push_back(EndOf(path));
  return absl::Status(looked.code(),
                      absl::StrCat(std::string(looked.message()), "\n", absl::StrJoin(ends, "\n")));
}

}  // namespace rollcall::cli
