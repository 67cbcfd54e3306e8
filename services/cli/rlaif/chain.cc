#include "services/cli/rlaif/chain.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/yaml.h"
#include "common/wire/sha256.h"
#include "services/cli/eval/model_evaluation.h"
#include "services/cli/rlaif/answers.h"
#include "services/cli/rlaif/chain_inputs.h"
#include "services/cli/rlaif/chain_plan.h"
#include "services/cli/rlaif/chain_prompts.h"
#include "services/cli/rlaif/chain_state.h"
#include "services/cli/rlaif/constitution.h"
#include "services/cli/rlaif/generator_pool.h"
#include "services/cli/rlaif/judgements.h"
#include "services/cli/rlaif/revisions.h"
#include "services/cli/rlaif/sampling_step.h"
#include "services/cli/rlaif/step_progress.h"
#include "services/cli/train/run_layout.h"

namespace rollcall::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kItems[] = "/items.jsonl";
constexpr char kEvaluation[] = "evaluation";
// What a training step's summary takes from its last step.
constexpr const char* kMetrics[] = {"loss", "accuracy", "difference", "reward/mean", "kl"};

absl::StatusOr<std::string> HeldOutHash(const v1::DataSection& data) {
  std::string hashes;
  for (const v1::DataSource& source : data.evaluation()) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(source.path()));
    hashes += ShortHash(bytes);
  }
  return hashes;
}

// The samples of an evaluation in the order of their prompts: they were written as they were finished.
absl::Status SortSamples(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  std::map<std::pair<uint64_t, uint64_t>, std::string> lines;
  for (const auto& line : absl::StrSplit(bytes, '\n', absl::SkipEmpty())) {
    const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return absl::DataLossError(path + ": expected JSON objects");
    lines[{json.value("prompt", uint64_t{0}), json.value("sample", uint64_t{0})}] =
        absl::StrCat(line, "\n");
  }
  std::string sorted;
  for (const auto& [key, line] : lines) sorted += line;
  return WriteFileAtomically(path, sorted);
}

class Chain {
 public:
  Chain(const v1::RunConfig& config, bool quiet, Shutdown& shutdown, RunLayout layout)
      : config_(config), quiet_(quiet), shutdown_(shutdown), layout_(std::move(layout)) {}

  absl::Status Run() {
    ROLLCALL_RETURN_IF_ERROR(Prepare());
    ROLLCALL_RETURN_IF_ERROR(Evaluate("policy", nullptr, config_.model().path()));
    for (const ChainStep step : StepsOf(config_)) {
      ROLLCALL_RETURN_IF_ERROR(Annotate(RunStep(step), absl::StrCat("step ", StepName(step))));
      if (step == ChainStep::kSft || step == LastStep(config_)) {
        ROLLCALL_RETURN_IF_ERROR(Evaluate(StepName(step), &step, FolderOf(step) + "/final"));
      }
    }
    PrintHeldOut();
    return LinkFinal();
  }

 private:
  std::string FolderOf(ChainStep step) const {
    return absl::StrCat(layout_.root, "/", StepFolder(step));
  }

  void Say(const std::string& text) const {
    if (!quiet_) std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }

  // Everything that can be wrong before the first sample is.
  absl::Status Prepare() {
    ROLLCALL_ASSIGN_OR_RETURN(Constitution constitution,
                              Constitution::Load(config_.rlaif().constitution()));
    constitution_ = std::move(constitution);
    ROLLCALL_RETURN_IF_ERROR(CheckTraining(config_, layout_.root));
    ROLLCALL_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Load(config_.model().path()));
    ROLLCALL_ASSIGN_OR_RETURN(prompts_, LoadChainPrompts(config_, *tokenizer));
    ROLLCALL_ASSIGN_OR_RETURN(const std::string rules, ReadFile(config_.rlaif().constitution()));
    contents_.prompts = prompts_.hash.substr(0, 16);
    contents_.constitution = ShortHash(rules);
    ROLLCALL_ASSIGN_OR_RETURN(contents_.held_out, HeldOutHash(config_.data()));
    ROLLCALL_ASSIGN_OR_RETURN(ChainState state, ChainState::Load(layout_.root));
    state_ = std::move(state);
    ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(
        layout_.config_path, config::FormatYaml(config_, config::Secrets::kKeep)));
    Say(absl::StrFormat("constitution %s, %d principles; %d prompts; %s", constitution_->name(),
                        constitution_->size(), prompts_.rows.size(), layout_.root));
    return absl::OkStatus();
  }

  absl::Status RunStep(ChainStep step) {
    const StepInputs inputs = InputsOf(step, config_, contents_, *state_);
    StepInputs recorded = inputs;
    // Not of the judging, but of what is made of it: it may be changed while nothing is left.
    if (step == ChainStep::kPreferences) {
      recorded["rlaif.min_log_odds"] = absl::StrCat(config_.rlaif().min_log_odds());
    }
    ROLLCALL_ASSIGN_OR_RETURN(const FinishedStep* done, state_->Find(StepName(step), recorded));
    if (done != nullptr) {
      Say(absl::StrFormat("%-14s done before: %s", StepFolder(step), FormatSummary(done->summary)));
      return absl::OkStatus();
    }
    ROLLCALL_RETURN_IF_ERROR(MakeDirectories(FolderOf(step)));
    StepOutput output;
    if (Trains(step)) {
      ROLLCALL_ASSIGN_OR_RETURN(output, Train(step));
    } else {
      ROLLCALL_ASSIGN_OR_RETURN(const std::unique_ptr<SamplingStep> work, Make(step, inputs));
      ROLLCALL_ASSIGN_OR_RETURN(output, Sample(step, *work));
    }
    FinishedStep finished{.name = StepName(step),
                          .folder = StepFolder(step),
                          .inputs = std::move(recorded),
                          .files = {},
                          .summary = output.summary};
    output.files["summary.json"] = output.summary.dump(1) + "\n";
    ROLLCALL_RETURN_IF_ERROR(Finish(std::move(finished), output.files));
    return RemoveTree(FolderOf(step) + kItems);
  }

  // Files first, then the state that speaks of them.
  absl::Status Finish(FinishedStep finished, const std::map<std::string, std::string>& files) {
    for (const auto& [name, bytes] : files) {
      const std::string path = absl::StrCat(layout_.root, "/", finished.folder, "/", name);
      if (const auto there = ReadFile(path); !there.ok() || *there != bytes) {
        ROLLCALL_RETURN_IF_ERROR(WriteFileAtomically(path, bytes));
      }
      finished.files[name] = wire::ToHex(wire::Sha256Of(bytes));
    }
    const bool of_step = finished.folder != kEvaluation;
    Say(absl::StrFormat("%-14s %s", of_step ? finished.folder : finished.name,
                        FormatSummary(finished.summary)));
    return state_->Add(std::move(finished));
  }

  // ── Steps that ask a model ──

  absl::StatusOr<std::unique_ptr<SamplingStep>> Make(ChainStep step, const StepInputs& inputs) {
    if (step == ChainStep::kAnswers || step == ChainStep::kSamples) {
      const bool first = step == ChainStep::kAnswers;
      return std::make_unique<AnswersStep>(config_, prompts_, inputs,
                                           first ? 1 : config_.rlaif().answers_per_prompt(),
                                           static_cast<uint8_t>(first ? 1 : 4));
    }
    const ChainStep before =
        step == ChainStep::kRevisions ? ChainStep::kAnswers : ChainStep::kSamples;
    ROLLCALL_ASSIGN_OR_RETURN(std::vector<std::vector<Answer>> answers,
                              ReadAnswers(FolderOf(before) + "/answers.jsonl"));
    if (answers.size() != prompts_.rows.size()) {
      return absl::InternalError(
          absl::StrCat(answers.size(), " prompts were answered, of ", prompts_.rows.size()));
    }
    if (step == ChainStep::kRevisions) {
      return std::make_unique<RevisionsStep>(config_, *constitution_, prompts_, std::move(answers),
                                             inputs);
    }
    return std::make_unique<JudgementsStep>(config_, *constitution_, prompts_, std::move(answers),
                                            inputs);
  }

  // Serves the model, in place of another one that was served before.
  absl::Status Serve(ChainStep step) {
    const std::string path = ModelOf(step, config_, layout_.root);
    if (pool_ != nullptr && pool_->model_path() == path) return absl::OkStatus();
    pool_.reset();
    const char* role = step == ChainStep::kRevisions     ? "critic"
                       : step == ChainStep::kPreferences ? "judge"
                                                         : "policy";
    const auto notice = [this](const std::string& text) {
      progress_.reset();
      Say(text);
    };
    ROLLCALL_ASSIGN_OR_RETURN(
        pool_, GeneratorPool::Start(config_, path, role, layout_, notice, shutdown_));
    return absl::OkStatus();
  }

  absl::StatusOr<StepOutput> Sample(ChainStep step, const SamplingStep& work) {
    ROLLCALL_RETURN_IF_ERROR(Serve(step));
    StepInputs inputs = work.Inputs();
    inputs["weights"] = pool_->weights_hash();
    ROLLCALL_ASSIGN_OR_RETURN(const std::unique_ptr<ItemLog> log,
                              ItemLog::Open(FolderOf(step) + kItems, inputs));
    ActiveCalls calls;
    const GeneratorClient client(pool_->channels(), pool_->tokenizer(), calls,
                                 {.attempts = config_.learner().max_group_attempts(),
                                  .call_time = absl::Seconds(config_.rpc().generate_timeout()),
                                  .recovery_time = absl::Seconds(config_.rpc().connect_timeout())});
    const uint64_t total = work.Items().size();
    const auto look = [&](uint64_t complete) -> absl::Status {
      if (shutdown_.requested()) return absl::CancelledError("interrupted");
      ROLLCALL_RETURN_IF_ERROR(pool_->Check());
      if (!progress_) progress_.emplace(quiet_, StepFolder(step), total, complete);
      progress_->Show(complete);
      return absl::OkStatus();
    };
    const absl::Status made = RunItems(work,
                                       {.client = client,
                                        .tokenizer = *pool_->tokenizer(),
                                        .context_length = pool_->context_length()},
                                       *log, calls, look);
    progress_.reset();
    ROLLCALL_RETURN_IF_ERROR(made);
    ROLLCALL_ASSIGN_OR_RETURN(StepOutput output, work.Conclude(PartsOf(*log)));
    output.summary["weights"] = pool_->weights_hash();
    if (step == ChainStep::kAnswers) {
      output.summary["rows_left_out"] = prompts_.left_out;
      output.files["prompts.jsonl"] = PromptFile(prompts_, config_.data().prompt_column());
    }
    return output;
  }

  // ── Steps that train ──

  absl::StatusOr<StepOutput> Train(ChainStep step) {
    pool_.reset();
    ROLLCALL_ASSIGN_OR_RETURN(const v1::RunConfig run, TrainingConfig(step, config_, layout_.root));
    std::map<std::string, double> last;
    SessionOptions options{.quiet = quiet_, .label = absl::StrFormat("%-14s ", StepFolder(step))};
    options.on_metrics = [&last](const v1::StepMetrics& metrics) {
      for (const auto& [name, value] : metrics.values()) last[name] = value;
    };
    ROLLCALL_ASSIGN_OR_RETURN(const SessionResult result, RunLocally(run, options, shutdown_));
    if (result.interrupted) return absl::CancelledError("interrupted");
    StepOutput output;
    // What a later start checks for.
    ROLLCALL_ASSIGN_OR_RETURN(output.files["final/config.json"],
                              ReadFile(FolderOf(step) + "/final/config.json"));
    output.summary = {{"steps", run.learner().steps()}};
    for (const char* name : kMetrics) {
      if (const auto found = last.find(name); found != last.end()) {
        output.summary[name] = found->second;
      }
    }
    return output;
  }

  // ── Held-out prompts ──

  // `step` left the model; nullptr: it is the initial policy.
  absl::Status Evaluate(const std::string& name, const ChainStep* step, const std::string& model) {
    if (config_.data().evaluation().empty()) return absl::OkStatus();
    const std::string label = "evaluation_" + name;
    StepInputs inputs = EvaluationInputs(step, config_, contents_, *state_);
    ROLLCALL_ASSIGN_OR_RETURN(const FinishedStep* done, state_->Find(label, inputs));
    if (done != nullptr) {
      held_out_.emplace_back(name, done->summary.at("reward").get<double>());
      return absl::OkStatus();
    }
    pool_.reset();
    const std::string folder = absl::StrCat(layout_.root, "/", kEvaluation);
    ROLLCALL_RETURN_IF_ERROR(MakeDirectories(folder));
    const std::string file = absl::StrCat(name, ".jsonl");
    const std::string path = absl::StrCat(folder, "/", file);
    v1::RunConfig config = config_;
    config.set_stage(v1::STAGE_EVAL);
    config.mutable_model()->set_path(model);
    ROLLCALL_ASSIGN_OR_RETURN(
        const ModelEvaluation evaluation,
        EvaluateModel(config, {.out = path, .progress = !quiet_ && isatty(STDERR_FILENO) == 1},
                      shutdown_));
    if (evaluation.failed > 0) {
      return absl::UnavailableError(absl::StrCat(label, ": ", evaluation.failed,
                                                 " prompts could not be evaluated; the first: ",
                                                 std::string(evaluation.first_failure.message())));
    }
    ROLLCALL_RETURN_IF_ERROR(SortSamples(path));
    ROLLCALL_ASSIGN_OR_RETURN(const std::string samples, ReadFile(path));
    const EvaluationFigures& figures = evaluation.figures;
    held_out_.emplace_back(name, figures.mean_reward);
    return Finish({.name = label,
                   .folder = kEvaluation,
                   .inputs = std::move(inputs),
                   .files = {},
                   .summary = {{"prompts", figures.prompts},
                               {"reward", figures.mean_reward},
                               {"standard_error", figures.standard_error},
                               {"abstained", figures.unjudged},
                               {"mean_tokens", evaluation.mean_tokens}}},
                  {{file, samples}});
  }

  void PrintHeldOut() const {
    std::string line;
    for (const auto& [name, reward] : held_out_) {
      absl::StrAppendFormat(&line, "%s%s %.3f", line.empty() ? "" : " → ", name, reward);
    }
    if (!line.empty()) Say("held-out reward: " + line);
  }

  // <run>/final → 6-dpo/final.
  absl::Status LinkFinal() const {
    const std::string link = layout_.root + "/final", fresh = link + ".new";
    ROLLCALL_RETURN_IF_ERROR(RemoveTree(fresh));
    std::error_code error;
    std::filesystem::create_directory_symlink(StepFolder(LastStep(config_)) + "/final", fresh,
                                              error);
    if (!error) std::filesystem::rename(fresh, link, error);
    if (error) return absl::InternalError(absl::StrCat(link, ": ", error.message()));
    return SyncDirectory(layout_.root);
  }

  const v1::RunConfig& config_;
  const bool quiet_;
  Shutdown& shutdown_;
  const RunLayout layout_;

  // Constant after Prepare.
  std::optional<Constitution> constitution_;
  ChainPrompts prompts_;
  ChainContents contents_;

  std::optional<ChainState> state_;
  std::unique_ptr<GeneratorPool> pool_;
  std::optional<StepProgress> progress_;
  std::vector<std::pair<std::string, double>> held_out_;
};

}  // namespace

absl::StatusOr<SessionResult> RunChain(const v1::RunConfig& config, bool quiet,
                                       Shutdown& shutdown) {
  ROLLCALL_ASSIGN_OR_RETURN(const LockedRun run, LockedRun::Open(config));
  const absl::Status ended = Chain(config, quiet, shutdown, run.layout()).Run();
  SessionResult result{.run_dir = run.layout().root,
                       .interrupted = !ended.ok() && shutdown.requested()};
  if (!ended.ok() && !result.interrupted) return ended;
  return result;
}

}  // namespace rollcall::cli
