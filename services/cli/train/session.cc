#include "services/cli/train/session.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "common/base/logging.h"
#include "common/base/machine_limits.h"
#include "common/base/status.h"
#include "common/config/yaml.h"
#include "common/rpc/channel.h"
#include "services/cli/process/supervisor.h"
#include "services/cli/train/core_plan.h"
#include "services/cli/train/local_services.h"
#include "services/cli/train/metrics_watch.h"
#include "services/cli/train/progress.h"
#include "services/cli/train/run_layout.h"
#include "services/cli/train/sample_feed.h"

namespace rollcall::cli {
namespace {

// How often exits, metrics and the line are looked at.
constexpr absl::Duration kTick = absl::Milliseconds(200);
// How often a step is printed where the output is no terminal.
constexpr absl::Duration kPlainLineEvery = absl::Seconds(5);
constexpr size_t kLogLinesShown = 12;
// A sample is shown about this often in a run, and not more often than a person can read.
constexpr uint64_t kSamplesShown = 10;
constexpr absl::Duration kSampleEvery = absl::Seconds(5);
constexpr size_t kSampleWidth = 200;

std::string LastLines(const std::string& path, size_t count) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return "";
  std::vector<std::string> lines = absl::StrSplit(*text, '\n', absl::SkipEmpty());
  if (lines.size() > count) lines.erase(lines.begin(), lines.end() - static_cast<ptrdiff_t>(count));
  return absl::StrJoin(lines, "\n");
}

// One line that is rewritten in place on a terminal, and printed now and then elsewhere.
class Display {
 public:
  Display(bool quiet, std::string label)
      : quiet_(quiet), terminal_(isatty(STDOUT_FILENO) == 1), label_(std::move(label)) {}
  ~Display() { Close(); }

  void Update(const std::string& line, bool news) {
    if (quiet_) return;
    if (terminal_) {
      std::printf("\r\x1b[2K%s%s", label_.c_str(), line.c_str());
      open_ = true;
    } else if (news && absl::Now() >= next_plain_) {
      std::printf("%s%s\n", label_.c_str(), line.c_str());
      next_plain_ = absl::Now() + kPlainLineEvery;
    }
    std::fflush(stdout);
  }

  void Print(const std::string& text) {
    Close();
    if (!quiet_) std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }

  // Leaves the last line standing.
  void Close() {
    if (open_) std::printf("\n");
    open_ = false;
  }

 private:
  const bool quiet_;
  const bool terminal_;
  const std::string label_;
  absl::Time next_plain_ = absl::InfinitePast();
  bool open_ = false;
};

class Session {
 public:
  Session(const v1::RunConfig& config, const SessionOptions& options, Shutdown& shutdown)
      : config_(config),
        options_(options),
        shutdown_(shutdown),
        display_(options.quiet, options.label) {}

  absl::StatusOr<SessionResult> Run() {
    ROLLCALL_ASSIGN_OR_RETURN(LockedRun run, LockedRun::Open(config_));
    ROLLCALL_ASSIGN_OR_RETURN(const std::string binaries, OwnFolder());
    v1::RunConfig config = config_;
    if (HasRanks(config) && config.learner().rendezvous().empty()) {
      ROLLCALL_ASSIGN_OR_RETURN(*config.mutable_learner()->mutable_rendezvous(),
                                FreeLoopbackAddress());
    }
    LocalServices services = PlanLocalServices(config, run.layout(), binaries);
    ShareCores(&services.specs);
    ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(
        run.layout().config_path, config::FormatYaml(services.config, config::Secrets::kKeep)));
    learner_log_ = run.layout().LogPath("learner");
    samples_.emplace(run.layout().root + "/rollouts");
    state_.total_steps = config_.learner().steps();
    started_ = absl::Now();

    Supervisor supervisor(std::move(services.specs),
                          {.drain = absl::Seconds(config_.rpc().drain_timeout()) + absl::Seconds(5),
                           .notice = [this](const std::string& text) { display_.Print(text); }});
    ROLLCALL_RETURN_IF_ERROR(supervisor.StartAll());
    ROLLCALL_ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                              rpc::Connect(services.config.learner().listen()));
    watch_ = std::make_unique<MetricsWatch>(std::move(channel));
    absl::StatusOr<ChildExit> ended = AwaitLearner(supervisor);
    ROLLCALL_RETURN_IF_ERROR(ended.status());
    Show();
    watch_.reset();
    ROLLCALL_RETURN_IF_ERROR(TakeRest(run.layout().root + "/metrics.jsonl"));
    display_.Update(FormatLiveLine(state_), true);
    return Conclude(*ended, run.layout());
  }

 private:
  void ShareCores(std::vector<ServiceSpec>* specs) {
    std::vector<std::string> names;
    for (const ServiceSpec& spec : *specs) names.push_back(spec.child.name);
    std::vector<CoreShare> plan = PlanCores(config_, names, ReadMachineLimits());
    for (CoreShare& share : plan) {
      if (!PinningWanted()) share.cores.clear();
    }
    ApplyCorePlan(plan, specs);
    LogDebug("cores shared", {{"plan", Describe(plan)}});
  }

  absl::StatusOr<ChildExit> AwaitLearner(Supervisor& supervisor) {
    while (true) {
      if (shutdown_.requested()) {
        interrupted_ = true;
        display_.Print(
            "stopping: the learner finishes its step and saves a checkpoint (interrupt again to "
            "kill)");
        return supervisor.StopAll().value_or(ChildExit{});
      }
      absl::StatusOr<std::optional<ChildExit>> step = supervisor.Step(kTick);
      if (!step.ok()) {
        supervisor.StopAll();
        return step.status();
      }
      Show();
      if (step->has_value()) {
        supervisor.StopAll();
        return **step;
      }
    }
  }

  void Take(const v1::StepMetrics& metrics) {
    ++taken_;
    // Steps of an earlier start, which a resumed run shows again, say nothing about speed.
    if (state_.values.empty() ||
        metrics.time() < absl::ToDoubleSeconds(started_ - absl::UnixEpoch())) {
      first_step_ = metrics.step();
      first_time_ = absl::Now();
    }
    state_.step = metrics.step();
    for (const auto& [name, value] : metrics.values()) state_.values[name] = value;
    if (options_.on_metrics) options_.on_metrics(metrics);
  }

  // What the learner wrote in its last moments, when nobody could watch any more: the lines of the metrics file that the
  // stream, which has the same entries in the same order, did not bring.
  absl::Status TakeRest(const std::string& path) {
    const absl::StatusOr<std::string> text = ReadFile(path);
    if (absl::IsNotFound(text.status())) return absl::OkStatus();
    ROLLCALL_RETURN_IF_ERROR(text.status());
    const std::vector<std::string> lines = absl::StrSplit(*text, '\n', absl::SkipEmpty());
    for (size_t i = taken_; i < lines.size(); ++i) {
      const auto row = nlohmann::json::parse(lines[i], nullptr, /*allow_exceptions=*/false);
      if (!row.is_object())
        return absl::DataLossError(absl::StrCat(path, ":", i + 1, ": expected a JSON object"));
      v1::StepMetrics metrics;
      metrics.set_step(row.value("step", uint64_t{0}));
      for (const auto& [name, value] : row.items()) {
        if (value.is_number() && name != "step" && name != "time")
          (*metrics.mutable_values())[name] = value;
      }
      Take(metrics);
    }
    return absl::OkStatus();
  }

  void Show() {
    const std::vector<v1::StepMetrics> fresh = watch_->Take();
    for (const v1::StepMetrics& metrics : fresh) Take(metrics);
    if (state_.values.empty()) {
      const absl::StatusOr<v1::LearnerStatus> status = watch_->Status();
      state_.waiting_for = status.ok() ? status->waiting_for() : "the learner";
      state_.elapsed = absl::Now() - started_;
    } else {
      state_.steps_done = state_.step - first_step_;
      if (!fresh.empty()) state_.elapsed = absl::Now() - first_time_;
    }
    if (!fresh.empty()) ShowSample();
    display_.Update(FormatLiveLine(state_), !fresh.empty());
  }

  void ShowSample() {
    if (options_.quiet || state_.step < next_sample_step_ || absl::Now() < next_sample_time_)
      return;
    const std::optional<v1::Group> group = samples_->Newest();
    const std::string sample = group ? FormatSample(*group, kSampleWidth) : "";
    if (sample.empty()) return;
    display_.Print(absl::StrCat("      step ", state_.step, "  ", sample));
    next_sample_step_ = state_.step + std::max<uint64_t>(1, state_.total_steps / kSamplesShown);
    next_sample_time_ = absl::Now() + kSampleEvery;
  }

  absl::StatusOr<SessionResult> Conclude(const ChildExit& ended, const RunLayout& layout) {
    display_.Close();
    if (!ended.clean()) {
      return absl::InternalError(absl::StrCat("the learner ended with ", ended.Describe(),
                                              "; the end of its log ", learner_log_, ":\n",
                                              LastLines(learner_log_, kLogLinesShown)));
    }
    return SessionResult{.run_dir = layout.root, .interrupted = interrupted_};
  }

  const v1::RunConfig& config_;
  const SessionOptions& options_;
  Shutdown& shutdown_;
  Display display_;
  std::unique_ptr<MetricsWatch> watch_;
  ProgressState state_;
  std::string learner_log_;
  std::optional<SampleFeed> samples_;
  uint64_t next_sample_step_ = 1;
  absl::Time next_sample_time_ = absl::InfinitePast();
  absl::Time started_;
  absl::Time first_time_;
  uint64_t first_step_ = 0;
  size_t taken_ = 0;  // entries of the metrics file
  bool interrupted_ = false;
};

}  // namespace

absl::StatusOr<SessionResult> RunLocally(const v1::RunConfig& config, const SessionOptions& options,
                                         Shutdown& shutdown) {
  return Session(config, options, shutdown).Run();
}

}  // namespace rollcall::cli
