#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/config/run_config.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_conversion.h"
#include "rollcall/v1/learner.grpc.pb.h"
#include "rollcall/v1/logprob.grpc.pb.h"
#include "rollcall/v1/verifier.grpc.pb.h"
#include "rollcall/v1/weights.grpc.pb.h"
#include "services/cli/commands/commands.h"
#include "services/cli/commands/reporting.h"

namespace rollcall::cli {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(3);

// One unary call with a short deadline to whatever serves `Service` at `address`.
template <typename Service, typename Request, typename Response>
absl::StatusOr<Response> Ask(const rpc::Security& security, const std::string& address,
                             grpc::Status (Service::Stub::*method)(grpc::ClientContext*,
                                                                   const Request&, Response*)) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                            rpc::Connect(address, {.security = security}));
  const std::unique_ptr<typename Service::Stub> stub = Service::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kTimeout));
  Response response;
  const grpc::Status status = ((*stub).*method)(&context, Request(), &response);
  if (!status.ok()) return rpc::FromGrpc(status);
  return response;
}

std::string VersionText(const v1::PolicyVersion& version) {
  return absl::StrCat("lineage ", version.lineage(), " step ", version.step());
}

void PrintLine(const std::string& service, const std::string& address, const absl::Status& status,
               const std::string& text) {
  std::printf("%-12s %-6s %s  [%s]\n", service.c_str(), status.ok() ? "up" : "down",
              status.ok() ? text.c_str() : std::string(status.message()).c_str(), address.c_str());
}

void PrintLearner(const std::string& address, const absl::StatusOr<v1::LearnerStatus>& status) {
  std::string text;
  if (status.ok()) {
    const v1::RolloutCounts& counts = status->rollouts();
    uint64_t dropped = 0;
    for (const auto& [reason, count] : counts.dropped()) dropped += count;
    text = absl::StrCat(v1::LearnerPhase_Name(status->phase()), " step ", status->step(), "/",
                        status->total_steps(), "  groups: ", counts.issued(), " issued, ",
                        counts.trained(), " trained, ", counts.filtered(), " filtered, ", dropped,
                        " dropped, ", counts.in_flight(), " in flight");
    if (status->has_data()) {
      const v1::DataCounts& data = status->data();
      absl::StrAppend(&text, "  rows: ", data.used(), " used, ", data.skipped(), " skipped, ",
                      data.dropped(), " dropped, ", data.truncated(), " truncated");
    }
    if (!status->waiting_for().empty())
      absl::StrAppend(&text, "  waiting for ", status->waiting_for());
    if (!status->failure().empty()) absl::StrAppend(&text, "  failed: ", status->failure());
  }
  PrintLine("learner", address, status.status(), text);
}

// UNAVAILABLE when no service answers; with `all`, when one does not.
absl::Status ShowStatus(const std::string& run, const std::vector<std::string>& sets, bool all) {
  const bool is_folder = std::filesystem::is_directory(run);
  ROLLCALL_ASSIGN_OR_RETURN(v1::RunConfig config,
                            config::LoadRunConfig(is_folder ? run + "/config.yaml" : run, sets));
  // The addresses of a local run are in the configuration that its folder keeps.
  const std::string effective = config::RunFolder(config) + "/config.yaml";
  if (!is_folder && std::filesystem::exists(effective)) {
    ROLLCALL_ASSIGN_OR_RETURN(config, config::LoadRunConfig(effective, sets));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const rpc::Security security,
                            rpc::Security::FromConfig(config.security()));
  const std::string& learner = config.learner().listen();
  const auto status = Ask<v1::Learner>(security, learner, &v1::Learner::Stub::GetStatus);
  PrintLearner(learner, status);
  bool any = status.ok();
  bool every = status.ok();
  for (const std::string& address : config.generator().addresses()) {
    const auto state = Ask<v1::Weights>(security, address, &v1::Weights::Stub::GetState);
    any |= state.ok();
    every &= state.ok();
    PrintLine(
        "generator", address, state.status(),
        !state.ok()
            ? ""
            : absl::StrCat(state->ready() ? "ready " : "not ready ", VersionText(state->version()),
                           "  running ", state->running_samples(), " waiting ",
                           state->waiting_samples(), "  KV free ", state->kv_tokens_free(), "/",
                           state->kv_tokens_total(), " tokens"));
  }
  if (!config.reward().address().empty()) {
    const auto description =
        Ask<v1::Verifier>(security, config.reward().address(), &v1::Verifier::Stub::Describe);
    any |= description.ok();
    every &= description.ok();
    PrintLine("reward", config.reward().address(), description.status(),
              description.ok() ? description->name() : "");
  }
  for (const v1::VerifierConfig& verifier : config.reward().verifiers()) {
    const std::string& address = verifier.reward_model().address();
    if (address.empty()) continue;
    const auto description = Ask<v1::Verifier>(security, address, &v1::Verifier::Stub::Describe);
    any |= description.ok();
    PrintLine(
        "reward-model", address, description.status(),
        description.ok() ? absl::StrCat(description->name(), " ", description->version()) : "");
  }
  for (const std::string& address : config.reference().addresses()) {
    const auto description = Ask<v1::LogProb>(security, address, &v1::LogProb::Stub::Describe);
    any |= description.ok();
    every &= description.ok();
    PrintLine("reference", address, description.status(),
              description.ok() ? absl::StrCat("context ", description->context_length()) : "");
  }
  if (!any) return absl::UnavailableError(absl::StrCat(run, ": no service of this run answers"));
  if (all && !every)
    return absl::UnavailableError(absl::StrCat(run, ": not every service answers"));
  return absl::OkStatus();
}

}  // namespace

void AddStatusCommand(CLI::App& app, int& exit_code) {
  auto run = std::make_shared<std::string>();
  auto sets = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand("status", "Ask every service of a run how it is");
  command
      ->add_option("run", *run,
                   "Run folder, or the YAML file of a run whose services run elsewhere")
      ->required();
  command
      ->add_option("--set", *sets,
                   "Override one value, a.b=c; security.certificate=… is how an operator asks")
      ->allow_extra_args(false);
  auto all = std::make_shared<bool>(false);
  command->add_flag("--all", *all, "Exit code 1 also when any one service does not answer");
  command->footer("Exit code 1 when no service answers.");
  command->callback(
      [run, sets, all, &exit_code] { exit_code = Report(ShowStatus(*run, *sets, *all)); });
}

}  // namespace rollcall::cli
