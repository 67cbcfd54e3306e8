#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/progress.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/identity.pb.h"
#include "services/generator/engine/active_request.h"
#include "services/generator/engine/engine_metrics.h"
#include "services/generator/engine/generation_request.h"
#include "services/generator/engine/model_runner.h"
#include "services/generator/sampling/token_sampler.h"
#include "services/generator/scheduler/scheduler.h"
#include "services/generator/weights/staged_weights.h"

namespace rollcall::generator {

// The serving loop: one thread that owns the model and turns requests into tokens, step by step. In
// each step every running sample gets a token, whoever asked for it.
//
// What it is not: it checks no request (request_validation.h) and moves no weights (weights/); it
// swaps whole ones between two steps, and requests go on with the new weights as OnWeightUpdate
// says. A request whose min_version the new weights do not meet ends with FAILED_PRECONDITION.
//
// Thread-safe; no method but Drain, Stop and the destructor blocks on the model.
class Engine {
 public:
  // What becomes of running requests when weights are swapped.
  enum class OnWeightUpdate {
    // Their keys and values are computed again: every later token is exactly what the new weights
    // give.
    kRecompute,
    // Samples that decode go on over the keys and values they have; what they draw from then on is
    // marked mixed_kv.
    kKeep,
    // They end first; requests that come meanwhile wait for the new weights.
    kDrain,
  };

  struct Options {
    SchedulerOptions scheduler;
    OnWeightUpdate on_weight_update = OnWeightUpdate::kRecompute;
    // Keep full blocks of the cache for later requests that begin with the same tokens.
    bool prefix_cache = true;
    // The version of the weights that the runner holds already; unset: none, requests are refused
    // until a swap.
    std::optional<v1::PolicyVersion> version;
    Clock* clock = Clock::Real();
    // Told of every request, swap and step.
    std::shared_ptr<Progress> progress = std::make_shared<Progress>();
  };

  // A snapshot, as of the last step or swap.
  struct State {
    std::optional<v1::PolicyVersion> version;
    uint32_t running_samples = 0;
    uint32_t waiting_samples = 0;
    uint64_t kv_tokens_total = 0;
    uint64_t kv_tokens_free = 0;
    uint64_t engine_steps = 0;
    // A guess at when a refused request may find room.
    absl::Duration retry_after = absl::Seconds(1);
  };

  using RequestId = uint64_t;

  // `tokenizer` may be null. `metrics` must outlive the engine.
  Engine(const Options& options, std::unique_ptr<ModelRunner> runner,
         std::shared_ptr<const text::Tokenizer> tokenizer, EngineMetrics* metrics);
  ~Engine();  // Stop()

  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Hands a request over; its results, and whether it is admitted at all, go to the sink before the
  // next step (where a swap waits for running requests: after the swap). An error here means that the sink is never called: INVALID_ARGUMENT (a prefix ends
  // its completion), RESOURCE_EXHAUSTED (queue full), UNAVAILABLE (draining or stopped).
  absl::StatusOr<RequestId> Submit(GenerationRequest request, std::shared_ptr<RequestSink> sink)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends a request with CANCELLED, and gives its cache blocks back, before the next step: after the
  // step that runs now at the latest. Unknown ones are ignored.
  void Cancel(RequestId id) ABSL_LOCKS_EXCLUDED(mutex_);

  // Puts weights into service between two steps (with kDrain: once the running requests are done),
  // then calls `done` on the engine's thread. If that fails the engine is without weights, and every
  // request ends with the error. One swap at a time: UNAVAILABLE to `done` when another one waits or
  // the engine stops.
  void SwapWeights(std::shared_ptr<const StagedWeights> weights,
                   std::function<void(absl::Status)> done) ABSL_LOCKS_EXCLUDED(mutex_);

  State state() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint32_t max_running_samples() const { return options_.scheduler.max_running_samples; }

  // Refuses new requests with UNAVAILABLE from now on. Never blocks.
  void CloseIntake() ABSL_LOCKS_EXCLUDED(mutex_);

  // CloseIntake, and waits until the last request is done; false: the deadline came first.
  bool Drain(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends all requests with UNAVAILABLE and joins the thread. Idempotent.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Submission {
    RequestId id;
    std::unique_ptr<ActiveRequest> request;
    absl::Time submitted;
  };
  struct Swap {
    std::shared_ptr<const StagedWeights> weights;
    std::function<void(absl::Status)> done;
  };
  struct Cancellation {
    RequestId id;
    uint64_t steps;  // done when it was asked for
  };
  // Commands that the thread takes up before its next step.
  struct Intake {
    std::vector<Submission> submissions;
    std::vector<Cancellation> cancellations;
    std::optional<Swap> swap;
    uint32_t samples = 0;  // in submissions
    bool empty() const { return submissions.empty() && cancellations.empty() && !swap.has_value(); }
  };
  struct Running {
    std::unique_ptr<ActiveRequest> request;
    GroupId group;
    SampleId first_sample;
    absl::Time submitted;
    bool has_token = false;
  };

  Scheduler::TokensOf TokensOf() const;
  void Run();
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool IsIdle() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Admits a request, or holds it back while a swap waits.
  void Take(Submission submission);
  void Admit(Submission submission);
  void CancelNow(const Cancellation& cancellation);
  // Applies the waiting swap when it is time, and admits what was held back for it.
  void SwapIfDue();
  void Apply(const Swap& swap);
  void RefuseAllWaiting(const absl::Status& status);
  void Step();
  absl::Status RunModel(const StepPlan& plan);
  // Draws the plan's tokens; ids of samples that are complete now go to `finished`.
  absl::Status DrawAll(const StepPlan& plan, std::vector<SampleId>* finished);
  // The log-probs of prompt tokens that the plan's rows give and their requests want.
  absl::Status ScorePrompts(const StepPlan& plan);
  absl::Status ScorePrompt(ActiveRequest& request, const StepChunk& chunk);
  // Called by several threads at once.
  absl::StatusOr<ActiveRequest::Drawn> DrawOne(const StepDraw& draw,
                                               std::span<const float> logits) const;
  v1::TokenAlternatives MostLikely(std::span<const float> logits, double temperature,
                                   uint32_t count) const;
  // Of a request whose first token was drawn in this step.
  void ObserveFirstToken(Running& running);
  void FailPlanned(const StepPlan& plan, const absl::Status& status);
  void Finish(std::map<RequestId, Running>::iterator it, const absl::Status& status);
  void FailAll(const absl::Status& status);
  void CountOutcome(const absl::Status& status);
  void Publish() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  const std::unique_ptr<ModelRunner> runner_;
  const std::shared_ptr<const text::Tokenizer> tokenizer_;
  EngineMetrics* const metrics_;

  // The engine thread's own.
  Scheduler scheduler_;
  std::optional<v1::PolicyVersion> version_;
  std::map<RequestId, Running> requests_;
  std::unordered_map<SampleId, RequestId> request_of_sample_;
  std::optional<Swap> swap_;      // waits for the running requests
  std::vector<Submission> held_;  // wait for swap_
  std::vector<uint32_t> token_ids_;
  std::vector<int32_t> logits_index_of_row_;
  uint64_t steps_ = 0;
  double finished_per_second_ = 0;  // samples, moving average

  mutable absl::Mutex mutex_;
  Intake intake_ ABSL_GUARDED_BY(mutex_);
  State state_ ABSL_GUARDED_BY(mutex_);
  uint32_t unfinished_samples_ ABSL_GUARDED_BY(mutex_) = 0;  // taken up; as of the last step
  RequestId next_request_ ABSL_GUARDED_BY(mutex_) = 1;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;        // commands were taken, their step is not done
  bool swap_waits_ ABSL_GUARDED_BY(mutex_) = false;  // taken, not applied

  std::thread thread_;  // last: it uses the fields above
};

}  // namespace rollcall::generator
