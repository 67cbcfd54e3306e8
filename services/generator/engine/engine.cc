#include "services/generator/engine/engine.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/generator/engine/version_check.h"

namespace rollcall::generator {
namespace {

// Logits held at once: 64 MiB are 110 rows of a 151,936-token vocabulary. More rows at once read the
// output matrix, a quarter of a small model's weights, less often.
constexpr size_t kMaxLogits = (size_t{64} << 20) / sizeof(float);

// Multiply-adds that drawing costs per entry of the vocabulary: two exponentials and their sums.
constexpr size_t kDrawWork = 50;

// Weight of the newest step in the moving average of finished samples per second.
constexpr double kRateDecay = 0.02;

}  // namespace

Engine::Engine(const Options& options, std::unique_ptr<ModelRunner> runner,
               std::shared_ptr<const text::Tokenizer> tokenizer, EngineMetrics* metrics)
    : options_(options),
      runner_(std::move(runner)),
      tokenizer_(std::move(tokenizer)),
      metrics_(metrics),
      scheduler_(options.scheduler, options.prefix_cache ? TokensOf() : nullptr),
      version_(options.version) {
  Publish();
  thread_ = std::thread([this] { Run(); });
}

Engine::~Engine() { Stop(); }

Scheduler::TokensOf Engine::TokensOf() const {
  return [this](SampleId sample, uint32_t begin, uint32_t count, std::vector<uint32_t>* tokens) {
    const Running& running = requests_.at(request_of_sample_.at(sample));
    running.request->AppendTokens(static_cast<uint32_t>(sample - running.first_sample), begin,
                                  count, tokens);
  };
}

absl::StatusOr<Engine::RequestId> Engine::Submit(GenerationRequest request,
                                                 std::shared_ptr<RequestSink> sink) {
  ROLLCALL_ASSIGN_OR_RETURN(
      std::unique_ptr<ActiveRequest> active,
      ActiveRequest::Create(std::move(request), tokenizer_.get(), std::move(sink)));
  const uint32_t samples = active->num_samples();
  absl::MutexLock lock(&mutex_);
  if (draining_ || stopping_) return absl::UnavailableError("this generator is shutting down");
  // Intake counts as waiting; a group larger than the queue is refused for good by the scheduler.
  const uint32_t waiting = state_.waiting_samples + intake_.samples;
  if (waiting > 0 && waiting + samples > options_.scheduler.max_waiting_samples) {
    metrics_->requests_refused.Increment();
    return absl::ResourceExhaustedError(absl::StrCat(waiting, " samples wait already, at most ",
                                                     options_.scheduler.max_waiting_samples,
                                                     " may"));
  }
  const RequestId id = next_request_++;
  intake_.samples += samples;
  intake_.submissions.push_back({id, std::move(active), options_.clock->Now()});
  options_.progress->Begin();
  return id;
}

void Engine::Cancel(RequestId id) {
  absl::MutexLock lock(&mutex_);
  if (!stopping_) intake_.cancellations.push_back({id, state_.engine_steps});
}

void Engine::SwapWeights(std::shared_ptr<const StagedWeights> weights,
                         std::function<void(absl::Status)> done) {
  {
    absl::MutexLock lock(&mutex_);
    if (!stopping_ && !intake_.swap.has_value() && !swap_waits_) {
      intake_.swap = Swap{std::move(weights), std::move(done)};
      options_.progress->Begin();
      return;
    }
  }
  done(absl::UnavailableError("the engine takes no weights now: it stops or has a swap before it"));
}

Engine::State Engine::state() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

void Engine::CloseIntake() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
}

bool Engine::Drain(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  return options_.clock->AwaitWithDeadline(&mutex_, absl::Condition(this, &Engine::IsIdle),
                                           deadline);
}

void Engine::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

bool Engine::HasWork() const { return stopping_ || unfinished_samples_ > 0 || !intake_.empty(); }

bool Engine::IsIdle() const { return !busy_ && unfinished_samples_ == 0 && intake_.empty(); }

void Engine::Run() {
  runner_->StartOnThisThread();
  Intake intake;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Engine::HasWork));
      intake = std::exchange(intake_, {});
      if (stopping_) break;
      busy_ = true;
      swap_waits_ |= intake.swap.has_value();
    }
    if (intake.swap.has_value()) swap_ = std::move(intake.swap);
    SwapIfDue();
    for (Submission& submission : intake.submissions) Take(std::move(submission));
    for (const Cancellation& cancellation : intake.cancellations) CancelNow(cancellation);
    // The room is seen at once, not after a step.
    if (!intake.cancellations.empty()) Publish();
    if (!scheduler_.idle()) Step();
    SwapIfDue();
    Publish();
    absl::MutexLock lock(&mutex_);
    busy_ = false;
    options_.progress->Advance(HasWork());
  }
  options_.progress->Advance(/*more_waits=*/false);
  if (intake.swap.has_value()) swap_ = std::move(intake.swap);
  std::move(intake.submissions.begin(), intake.submissions.end(), std::back_inserter(held_));
  const absl::Status stopped = absl::UnavailableError("this generator is shutting down");
  RefuseAllWaiting(stopped);
  FailAll(stopped);
  Publish();
}

void Engine::Take(Submission submission) {
  if (swap_.has_value()) {
    held_.push_back(std::move(submission));
  } else {
    Admit(std::move(submission));
  }
}

void Engine::CancelNow(const Cancellation& cancellation) {
  const absl::Status cancelled = absl::CancelledError("cancelled");
  const RequestId id = cancellation.id;
  const auto it = requests_.find(id);
  if (it != requests_.end()) {
    Finish(it, cancelled);
    metrics_->cancellation_steps.Observe(static_cast<double>(steps_ - cancellation.steps));
    return;
  }
  const auto held = std::find_if(held_.begin(), held_.end(),
                                 [id](const Submission& waiting) { return waiting.id == id; });
  if (held == held_.end()) return;
  CountOutcome(cancelled);
  held->request->sink().OnDone(cancelled);
  held_.erase(held);
}

void Engine::SwapIfDue() {
  if (!swap_.has_value()) return;
  if (options_.on_weight_update == OnWeightUpdate::kDrain && !requests_.empty()) return;
  const Swap swap = *std::exchange(swap_, std::nullopt);
  Apply(swap);
  for (Submission& submission : std::exchange(held_, {})) Admit(std::move(submission));
}

void Engine::RefuseAllWaiting(const absl::Status& status) {
  if (swap_.has_value()) swap_->done(status);
  swap_.reset();
  for (Submission& submission : std::exchange(held_, {})) submission.request->sink().OnDone(status);
}

void Engine::Admit(Submission submission) {
  ActiveRequest& request = *submission.request;
  absl::Status refused = CheckVersion(request.request().min_version, version_);
  if (refused.ok()) {
    const absl::StatusOr<Scheduler::Admission> admission = scheduler_.Submit(request.group_spec());
    if (admission.ok()) {
      request.sink().OnAdmitted(*version_);
      for (uint32_t slot = 0; slot < request.num_samples(); ++slot) {
        request_of_sample_[admission->first_sample + slot] = submission.id;
      }
      requests_[submission.id] = {std::move(submission.request), admission->group,
                                  admission->first_sample, submission.submitted};
      return;
    }
    refused = admission.status();
  }
  metrics_->requests_refused.Increment();
  request.sink().OnDone(refused);
}

void Engine::Apply(const Swap& swap) {
  const absl::Time start = options_.clock->Now();
  const v1::PolicyVersion& next = swap.weights->version;
  const absl::Status loaded = runner_->LoadWeights(*swap.weights);
  if (!loaded.ok()) {
    version_.reset();
    FailAll(Annotate(loaded, "loading new weights"));
    LogError("weights could not be put into service", {{"step", next.step()}, {"status", loaded}});
    Publish();
    swap.done(loaded);
    return;
  }
  version_ = next;
  if (options_.on_weight_update == OnWeightUpdate::kKeep) {
    scheduler_.KeepDecoding();
  } else {
    scheduler_.RecomputeAll();
  }
  for (auto it = requests_.begin(); it != requests_.end();) {
    const auto current = it++;
    const absl::Status status =
        CheckVersion(current->second.request->request().min_version, version_);
    current->second.request->RestartPromptLogProbs();
    if (!status.ok()) Finish(current, Annotate(status, "the weights changed"));
  }
  const absl::Duration elapsed = options_.clock->Now() - start;
  metrics_->weight_swaps.Increment();
  metrics_->weight_swap_seconds.Observe(absl::ToDoubleSeconds(elapsed));
  LogInfo("weights in service", {{"run", next.run_id()},
                                 {"lineage", next.lineage()},
                                 {"step", next.step()},
                                 {"seconds", elapsed},
                                 {"running_requests", requests_.size()}});
  // Who waits for `done` may ask for the state at once.
  Publish();
  swap.done(absl::OkStatus());
}

void Engine::Step() {
  const absl::Time start = options_.clock->Now();
  const StepPlan plan = scheduler_.Plan();
  std::vector<SampleId> finished;
  absl::Status status = RunModel(plan);
  if (status.ok()) status = ScorePrompts(plan);
  if (status.ok()) status = DrawAll(plan, &finished);
  ++steps_;
  metrics_->steps.Increment();
  metrics_->preemptions.Increment(static_cast<double>(plan.preempted.size()));
  metrics_->prefix_cache_lookups.Increment(plan.cache_lookups);
  metrics_->prefix_cache_hits.Increment(plan.cache_hits);
  metrics_->prefix_cache_hit_tokens.Increment(plan.cache_hit_tokens);
  if (!status.ok()) {
    FailPlanned(plan, status);
    return;
  }
  scheduler_.Complete(plan, finished);
  for (const SampleId id : finished) request_of_sample_.erase(id);
  // Who reads the last token of a request finds the state without it.
  Publish();
  for (auto it = requests_.begin(); it != requests_.end();) {
    const auto current = it++;
    ActiveRequest& request = *current->second.request;
    if (request.has_output()) {
      ObserveFirstToken(current->second);
      request.sink().OnOutput(request.TakeOutput());
    }
    if (request.done()) Finish(current, absl::OkStatus());
  }
  const double seconds = absl::ToDoubleSeconds(options_.clock->Now() - start);
  metrics_->step_seconds.Observe(seconds);
  metrics_->sampled_tokens.Increment(static_cast<double>(plan.draws.size()));
  metrics_->mixed_kv_tokens.Increment(static_cast<double>(
      std::count_if(plan.draws.begin(), plan.draws.end(), [](const auto& d) { return d.mixed; })));
  metrics_->decode_tokens.Increment(plan.decode_rows);
  metrics_->prefill_tokens.Increment(plan.rows - plan.decode_rows);
  if (seconds > 0) {
    finished_per_second_ +=
        kRateDecay * (static_cast<double>(finished.size()) / seconds - finished_per_second_);
  }
}

void Engine::ObserveFirstToken(Running& running) {
  if (running.has_token || !running.request->has_tokens()) return;
  running.has_token = true;
  metrics_->first_token_seconds.Observe(
      absl::ToDoubleSeconds(options_.clock->Now() - running.submitted));
}

absl::Status Engine::RunModel(const StepPlan& plan) {
  token_ids_.clear();
  for (const StepChunk& chunk : plan.chunks) {
    const Running& running = requests_.at(request_of_sample_.at(chunk.sample));
    running.request->AppendTokens(static_cast<uint32_t>(chunk.sample - running.first_sample),
                                  chunk.begin, chunk.count, &token_ids_);
  }
  return runner_->Forward(plan, token_ids_);
}

absl::Status Engine::DrawAll(const StepPlan& plan, std::vector<SampleId>* finished) {
  const size_t vocab = runner_->vocab_size();
  const size_t rows_at_once = std::max<size_t>(1, kMaxLogits / vocab);
  std::vector<uint32_t> rows;
  for (size_t begin = 0; begin < plan.draws.size();) {
    // Samples that share a prompt draw from one row, which is computed once.
    logits_index_of_row_.assign(plan.rows, -1);
    rows.clear();
    size_t end = begin;
    for (; end < plan.draws.size(); ++end) {
      int32_t& index = logits_index_of_row_[plan.draws[end].row];
      if (index >= 0) continue;
      if (rows.size() == rows_at_once) break;
      index = static_cast<int32_t>(rows.size());
      rows.push_back(plan.draws[end].row);
    }
    ROLLCALL_ASSIGN_OR_RETURN(const std::span<const float> logits, runner_->Logits(rows));
    std::vector<absl::StatusOr<ActiveRequest::Drawn>> drawn(end - begin, ActiveRequest::Drawn{});
    runner_->Parallel(drawn.size(), drawn.size() * vocab * kDrawWork, [&](size_t i) {
      const StepDraw& draw = plan.draws[begin + i];
      const size_t index = static_cast<size_t>(logits_index_of_row_[draw.row]);
      drawn[i] = DrawOne(draw, logits.subspan(index * vocab, vocab));
    });
    for (absl::StatusOr<ActiveRequest::Drawn>& result : drawn) {
      ROLLCALL_RETURN_IF_ERROR(result.status());
      result->mixed_kv = plan.draws[begin].mixed;
      const SampleId id = plan.draws[begin++].sample;
      const Running& running = requests_.at(request_of_sample_.at(id));
      ROLLCALL_ASSIGN_OR_RETURN(
          const bool ended,
          running.request->Append(static_cast<uint32_t>(id - running.first_sample),
                                  *std::move(result), *version_));
      if (ended) finished->push_back(id);
    }
  }
  return absl::OkStatus();
}

absl::Status Engine::ScorePrompts(const StepPlan& plan) {
  for (const StepChunk& chunk : plan.chunks) {
    Running& running = requests_.at(request_of_sample_.at(chunk.sample));
    ROLLCALL_RETURN_IF_ERROR(ScorePrompt(*running.request, chunk));
  }
  return absl::OkStatus();
}

absl::Status Engine::ScorePrompt(ActiveRequest& request, const StepChunk& chunk) {
  const auto wanted = request.WantedPromptRows(chunk.begin, chunk.begin + chunk.count);
  const size_t vocab = runner_->vocab_size();
  const uint32_t rows_at_once = static_cast<uint32_t>(std::max<size_t>(1, kMaxLogits / vocab));
  const float asked = request.request().sampling.temperature;
  const double temperature = asked == 0 ? 1.0 : asked;
  const uint32_t end = wanted.first + wanted.count;
  for (uint32_t first = wanted.first; first < end; first += rows_at_once) {
    const uint32_t count = std::min(end - first, rows_at_once);
    std::vector<uint32_t> rows(count);
    std::iota(rows.begin(), rows.end(), chunk.first_row + (first - chunk.begin));
    ROLLCALL_ASSIGN_OR_RETURN(const std::span<const float> logits, runner_->Logits(rows));
    std::vector<float> logprobs(count);
    runner_->Parallel(count, count * vocab * kDrawWork, [&](size_t i) {
      logprobs[i] = runner_->TokenLogProb(logits.subspan(i * vocab, vocab), temperature,
                                          request.request().prompt[first + i + 1]);
    });
    request.AppendPromptLogProbs(logprobs, *version_);
  }
  return absl::OkStatus();
}

absl::StatusOr<ActiveRequest::Drawn> Engine::DrawOne(const StepDraw& draw,
                                                     std::span<const float> logits) const {
  thread_local TokenSampler sampler;
  const Running& running = requests_.at(request_of_sample_.at(draw.sample));
  const ActiveRequest& request = *running.request;
  const uint32_t slot = static_cast<uint32_t>(draw.sample - running.first_sample);
  const SamplingOptions& options = request.request().sampling;
  ActiveRequest::Drawn drawn;
  ROLLCALL_ASSIGN_OR_RETURN(drawn.sampled,
                            sampler.Sample(logits, options, request.UniformAt(slot, draw.position),
                                           request.History(slot)));
  const double temperature = options.temperature == 0 ? 1.0 : options.temperature;
  drawn.logprob = runner_->TokenLogProb(logits, temperature, drawn.sampled.token);
  if (request.request().top_logprobs > 0) {
    drawn.alternatives = MostLikely(logits, temperature, request.request().top_logprobs);
  }
  return drawn;
}

v1::TokenAlternatives Engine::MostLikely(std::span<const float> logits, double temperature,
                                         uint32_t count) const {
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto end = order.begin() + std::min<size_t>(count, order.size());
  std::partial_sort(order.begin(), end, order.end(), [&logits](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  v1::TokenAlternatives alternatives;
  for (auto token = order.begin(); token != end; ++token) {
    alternatives.add_token_ids(*token);
    alternatives.add_logprobs(runner_->TokenLogProb(logits, temperature, *token));
  }
  return alternatives;
}

void Engine::FailPlanned(const StepPlan& plan, const absl::Status& status) {
  LogError("engine step failed", {{"rows", plan.rows}, {"status", status}});
  std::vector<SampleId> planned;
  for (const StepChunk& chunk : plan.chunks) planned.push_back(chunk.sample);
  for (const StepDraw& draw : plan.draws) planned.push_back(draw.sample);
  for (const SampleId sample : planned) {
    const auto id = request_of_sample_.find(sample);
    if (id != request_of_sample_.end()) Finish(requests_.find(id->second), status);
  }
}

void Engine::Finish(std::map<RequestId, Running>::iterator it, const absl::Status& status) {
  Running& running = it->second;
  scheduler_.Cancel(running.group);
  for (uint32_t slot = 0; slot < running.request->num_samples(); ++slot) {
    request_of_sample_.erase(running.first_sample + slot);
  }
  CountOutcome(status);
  running.request->sink().OnDone(status);
  requests_.erase(it);
}

void Engine::FailAll(const absl::Status& status) {
  while (!requests_.empty()) Finish(requests_.begin(), status);
}

void Engine::CountOutcome(const absl::Status& status) {
  if (status.ok()) {
    metrics_->requests_ok.Increment();
  } else if (absl::IsCancelled(status)) {
    metrics_->requests_cancelled.Increment();
  } else {
    metrics_->requests_failed.Increment();
  }
}

void Engine::Publish() {
  uint32_t waiting = scheduler_.num_waiting();
  for (const Submission& held : held_) waiting += held.request->num_samples();
  const uint64_t block_tokens = scheduler_.options().block_tokens;
  const uint64_t total = scheduler_.pool().num_blocks() * block_tokens;
  const uint64_t free = scheduler_.num_available_blocks() * block_tokens;
  metrics_->running_samples.Set(scheduler_.num_running());
  metrics_->waiting_samples.Set(waiting);
  metrics_->kv_tokens_total.Set(static_cast<double>(total));
  metrics_->kv_tokens_free.Set(static_cast<double>(free));
  metrics_->prefix_cache_tokens.Set(
      static_cast<double>(scheduler_.num_cached_blocks() * block_tokens));
  metrics_->policy_step.Set(version_ ? static_cast<double>(version_->step()) : -1.0);
  metrics_->policy_lineage.Set(version_ ? static_cast<double>(version_->lineage()) : -1.0);
  // Room comes when as many samples as wait have finished; at most 10 s, so that an idle generator
  // is found again.
  const double seconds =
      finished_per_second_ > 0 ? static_cast<double>(waiting) / finished_per_second_ : 1.0;
  absl::MutexLock lock(&mutex_);
  state_ = {.version = version_,
            .running_samples = scheduler_.num_running(),
            .waiting_samples = waiting,
            .kv_tokens_total = total,
            .kv_tokens_free = free,
            .engine_steps = steps_,
            .retry_after = absl::Seconds(std::clamp(seconds, 0.05, 10.0))};
  unfinished_samples_ = scheduler_.num_running() + waiting;
  swap_waits_ = swap_.has_value();
}

}  // namespace rollcall::generator
