#include "services/cli/eval/model_evaluation.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/bounded_queue.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/config/yaml.h"
#include "common/rpc/status_conversion.h"
#include "common/text/tokenizer.h"
#include "common/wire/sha256.h"
#include "rollcall/v1/weights.grpc.pb.h"
#include "services/cli/eval/prompt_evaluator.h"
#include "services/cli/eval/sample_log.h"
#include "services/cli/local/local_service.h"
#include "services/cli/train/progress.h"
#include "services/learner/data/prompt_set.h"

namespace rollcall::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr absl::Duration kDescribeTime = absl::Seconds(5);  // as the contracts say
// Twice what a generator decodes at once by default, so that it never idles between prompts, in at
// most this many threads, which mostly wait.
constexpr uint32_t kSamplesInFlight = 512;
constexpr uint32_t kMostWorkers = 64;

// Names what is evaluated: equal for equal weights, prompts, sampling, verifiers and seed.
absl::StatusOr<std::string> EvaluationId(const v1::RunConfig& config,
                                         const std::shared_ptr<grpc::Channel>& generator,
                                         const std::shared_ptr<grpc::Channel>& reward) {
  wire::Sha256 hash;
  const auto add = [&hash](const std::string& part) {
    hash.Update(absl::StrCat(part.size(), ":", part));
  };
  v1::ServerState state;
  v1::VerifierDescription verifier;
  {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kDescribeTime));
    ROLLCALL_RETURN_IF_ERROR(
        rpc::FromGrpc(v1::Weights::NewStub(generator)->GetState(&context, {}, &state)));
  }
  {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + kDescribeTime));
    ROLLCALL_RETURN_IF_ERROR(
        rpc::FromGrpc(v1::Verifier::NewStub(reward)->Describe(&context, {}, &verifier)));
  }
  add(state.version().manifest_hash());
  add(state.numerics().SerializeAsString());
  add(verifier.version());
  v1::RunConfig deciding;
  deciding.set_seed(config.seed());
  *deciding.mutable_sampling() = config.sampling();
  *deciding.mutable_evaluation() = config.evaluation();
  *deciding.mutable_data() = config.data();
  deciding.mutable_data()->clear_evaluation();  // the files' bytes decide, not their names
  *deciding.mutable_reward()->mutable_verifiers() = config.reward().verifiers();
  add(config::FormatYaml(deciding));
  for (const v1::DataSource& source : config.data().evaluation()) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(source.path()));
    add(bytes);
  }
  return wire::ToHex(hash.Finish()).substr(0, 16);
}

// "eval  [#####.....] 12/24 prompts  reward 0.750  0:12 left", over the line before.
class ProgressLine {
 public:
  ProgressLine(bool shown, uint64_t total, uint64_t resumed)
      : shown_(shown), total_(total), resumed_(resumed), started_(absl::Now()) {}
  ~ProgressLine() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

  void Show(uint64_t done, double mean_reward) const {
    if (!shown_) return;
    constexpr uint64_t kWidth = 24;
    std::string bar(done * kWidth / total_, '#');
    bar.resize(kWidth, '.');
    std::string line = absl::StrFormat("\r\033[Keval  [%s] %d/%d prompts  reward %.3f", bar, done,
                                       total_, mean_reward);
    if (done > resumed_) {
      const absl::Duration left = (absl::Now() - started_) / (done - resumed_) * (total_ - done);
      absl::StrAppend(&line, "  ", FormatClock(left), " left");
    }
    std::fputs(line.c_str(), stderr);
  }

 private:
  const bool shown_;
  const uint64_t total_;
  const uint64_t resumed_;
  const absl::Time started_;
};

struct Finished {
  uint64_t ordinal = 0;
  absl::StatusOr<std::vector<EvaluatedSample>> samples;
};

// Threads that evaluate prompts and hand over what came out; joined at the end.
class Workers {
 public:
  Workers(const PromptEvaluator& evaluator, const std::vector<v1::PromptRow>& rows,
          std::vector<uint64_t> ordinals, uint32_t samples)
      : rows_(rows), ordinals_(std::move(ordinals)), finished_(kMostWorkers) {
    const uint64_t count = std::min<uint64_t>(
        {kMostWorkers, std::max<uint32_t>(1, kSamplesInFlight / samples), ordinals_.size()});
    for (uint64_t i = 0; i < count; ++i) {
      threads_.emplace_back([this, &evaluator] { Run(evaluator); });
    }
  }
  ~Workers() {
    stop_ = true;
    finished_.Close();
    for (std::thread& thread : threads_) thread.join();
  }

  std::optional<Finished> PopFor(absl::Duration longest) { return finished_.PopFor(longest); }

 private:
  void Run(const PromptEvaluator& evaluator) {
    for (size_t i; !stop_ && (i = next_++) < ordinals_.size();) {
      const uint64_t ordinal = ordinals_[i];
      if (!finished_.Push({ordinal, evaluator.Evaluate(ordinal, rows_[ordinal], stop_)})) return;
    }
  }

  const std::vector<v1::PromptRow>& rows_;
  const std::vector<uint64_t> ordinals_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> stop_ = false;
  BoundedQueue<Finished> finished_;
  std::vector<std::thread> threads_;
};

using SamplesByPrompt = std::map<uint64_t, std::vector<EvaluatedSample>>;

EvaluationFigures FiguresOf(const SamplesByPrompt& prompts, double threshold) {
  std::vector<std::vector<Judged>> judged;
  for (const auto& [ordinal, samples] : prompts) {
    std::vector<Judged>& of_prompt = judged.emplace_back();
    for (const EvaluatedSample& sample : samples) {
      of_prompt.push_back(
          {sample.reward, sample.reward && *sample.reward >= threshold, sample.answer});
    }
  }
  return Summarize(judged);
}

double MeanTokens(const SamplesByPrompt& prompts) {
  double tokens = 0, samples = 0;
  for (const auto& [ordinal, of_prompt] : prompts) {
    for (const EvaluatedSample& sample : of_prompt) tokens += sample.tokens;
    samples += static_cast<double>(of_prompt.size());
  }
  return samples == 0 ? 0 : tokens / samples;
}

absl::StatusOr<std::vector<v1::PromptRow>> ReadPrompts(const v1::RunConfig& config,
                                                       const text::Tokenizer& tokenizer) {
  ROLLCALL_ASSIGN_OR_RETURN(
      learner::PromptSet set,
      learner::LoadPrompts(config.data(), config.data().evaluation(), tokenizer));
  const uint32_t most = config.evaluation().max_prompts();
  if (most > 0 && set.rows.size() > most) set.rows.resize(most);
  return std::move(set.rows);
}

// One evaluation from start to figures.
class Evaluation {
 public:
  Evaluation(const v1::RunConfig& config, const ModelEvaluationOptions& options, Shutdown& shutdown)
      : config_(config), options_(options), shutdown_(shutdown) {}

  // Reads the prompts, starts both services and opens the file of samples.
  absl::Status Start() {
    ROLLCALL_ASSIGN_OR_RETURN(tokenizer_, text::Tokenizer::Load(config_.model().path()));
    ROLLCALL_ASSIGN_OR_RETURN(rows_, ReadPrompts(config_, *tokenizer_));
    ROLLCALL_ASSIGN_OR_RETURN(reward_, LocalReward::Start(config_, shutdown_));
    ROLLCALL_ASSIGN_OR_RETURN(
        generator_, LocalService::Start(LocalService::Kind::kGenerator, config_, shutdown_));
    ROLLCALL_ASSIGN_OR_RETURN(const std::string id,
                              EvaluationId(config_, generator_->channel(), reward_->channel()));
    ROLLCALL_ASSIGN_OR_RETURN(
        log_, SampleLog::Open(options_.out, id, config_.evaluation().samples_per_prompt()));
    done_ = log_->TakeFinished();
    result_.resumed = done_.size();
    return absl::OkStatus();
  }

  // Evaluates every prompt that the file lacks.
  absl::Status Run() {
    std::vector<uint64_t> ordinals;
    for (uint64_t ordinal = 0; ordinal < rows_.size(); ++ordinal) {
      if (!done_.contains(ordinal)) ordinals.push_back(ordinal);
    }
    const uint64_t wanted = ordinals.size();
    const ProgressLine progress(options_.progress, rows_.size(), result_.resumed);
    const PromptEvaluator evaluator(config_, tokenizer_, generator_->channel(), reward_->channel());
    Workers workers(evaluator, rows_, std::move(ordinals),
                    config_.evaluation().samples_per_prompt());
    for (uint64_t ended = 0; ended < wanted;) {
      if (shutdown_.requested()) return absl::CancelledError("interrupted");
      ROLLCALL_RETURN_IF_ERROR(reward_->Check());
      ROLLCALL_RETURN_IF_ERROR(generator_->Check());
      std::optional<Finished> next = workers.PopFor(kTick);
      if (!next) continue;
      ++ended;
      ROLLCALL_RETURN_IF_ERROR(Keep(*std::move(next)));
      if (options_.progress) {
        progress.Show(done_.size() + result_.failed,
                      FiguresOf(done_, options_.threshold).mean_reward);
      }
    }
    return absl::OkStatus();
  }

  ModelEvaluation Result() const {
    ModelEvaluation result = result_;
    result.figures = FiguresOf(done_, options_.threshold);
    result.mean_tokens = MeanTokens(done_);
    return result;
  }

 private:
  absl::Status Keep(Finished finished) {
    if (!finished.samples.ok()) {
      if (result_.failed++ == 0) result_.first_failure = finished.samples.status();
      return absl::OkStatus();
    }
    ROLLCALL_RETURN_IF_ERROR(log_->Append(*finished.samples));
    done_[finished.ordinal] = *std::move(finished.samples);
    return absl::OkStatus();
  }

  const v1::RunConfig& config_;
  const ModelEvaluationOptions& options_;
  Shutdown& shutdown_;

  // Constant after Start.
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<v1::PromptRow> rows_;
  std::optional<LocalReward> reward_;
  std::unique_ptr<LocalService> generator_;

  std::unique_ptr<SampleLog> log_;
  SamplesByPrompt done_;
  ModelEvaluation result_;
};

}  // namespace

absl::StatusOr<ModelEvaluation> EvaluateModel(const v1::RunConfig& config,
                                              const ModelEvaluationOptions& options,
                                              Shutdown& shutdown) {
  Evaluation evaluation(config, options, shutdown);
  ROLLCALL_RETURN_IF_ERROR(evaluation.Start());
  ROLLCALL_RETURN_IF_ERROR(evaluation.Run());
  return evaluation.Result();
}

}  // namespace rollcall::cli
