#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/base/logging.h"
#include "common/base/progress.h"
#include "common/batching/batch_metrics.h"
#include "common/batching/batch_queue.h"

namespace rollcall::batching {

// The thread that owns a frozen model: it loads it, then scores batches in order of arrival until
// the queue is closed and drained. A batch that fails is an error of the jobs in it; the engine
// goes on. Thread-safe.
//
// Scorer: the model, an interface with
//   using Job = ScoreJob<…>;  using Description = …;
//   const Description& description() const;     constant after construction
//   absl::StatusOr<Job::Answers> Score(const Batch<Job>&);
// Score is called by the engine thread only and blocks for the forward pass: one answer per item,
// in order. Its error concerns the whole batch: RESOURCE_EXHAUSTED when memory ran out.
template <typename Scorer>
class BatchEngine {
 public:
  using Job = typename Scorer::Job;
  // Loads the model; runs on the engine thread.
  using Loader = std::function<absl::StatusOr<std::unique_ptr<Scorer>>()>;

  // Starts the thread and blocks until the model is loaded, or returns why it was not. `queue` and
  // `metrics` must outlive the engine. `progress` is told of every batch.
  static absl::StatusOr<std::unique_ptr<BatchEngine>> Start(
      Loader load, BatchQueue<Job>* queue, BatchMetrics* metrics,
      std::shared_ptr<Progress> progress = std::make_shared<Progress>()) {
    auto engine =
        std::unique_ptr<BatchEngine>(new BatchEngine(queue, metrics, std::move(progress)));
    engine->thread_ =
        std::thread([engine = engine.get(), load = std::move(load)] { engine->Run(load); });
    absl::Status status;
    {
      absl::MutexLock lock(&engine->mutex_);
      engine->mutex_.Await(absl::Condition(&engine->loaded_));
      status = engine->load_status_;
    }
    if (!status.ok()) return status;
    return engine;
  }

  // Closes the queue, scores what waits, and joins. Abandon the queue first for a quick end.
  ~BatchEngine() {
    queue_->Close();
    if (thread_.joinable()) thread_.join();
  }

  // Blocks until all that was admitted is answered, after the queue was closed, or until the
  // deadline; whether it is.
  bool AwaitDrained(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithDeadline(absl::Condition(&drained_), deadline);
  }

  const typename Scorer::Description& description() const { return description_; }

 private:
  BatchEngine(BatchQueue<Job>* queue, BatchMetrics* metrics, std::shared_ptr<Progress> progress)
      : queue_(queue), metrics_(metrics), progress_(std::move(progress)) {}

  void Run(const Loader& load) {
    absl::StatusOr<std::unique_ptr<Scorer>> scorer = load();
    if (scorer.ok()) description_ = (*scorer)->description();
    {
      absl::MutexLock lock(&mutex_);
      load_status_ = scorer.status();
      loaded_ = true;
    }
    if (!scorer.ok()) return;
    while (std::optional<Batch<Job>> batch = queue_->Next()) {
      progress_->Begin();
      ScoreBatch(**scorer, *batch);
      const size_t waiting = queue_->waiting_sequences();
      progress_->Advance(/*more_waits=*/waiting > 0);
      metrics_->waiting_sequences.Set(static_cast<double>(waiting));
    }
    absl::MutexLock lock(&mutex_);
    drained_ = true;
  }

  void ScoreBatch(Scorer& scorer, const Batch<Job>& batch) {
    const absl::Time start = absl::Now();
    typename Job::Result scored = scorer.Score(batch);
    if (scored.ok() && scored->size() != batch.items.size()) {
      scored = absl::InternalError(absl::StrCat("the model answered ", scored->size(),
                                                " sequences of ", batch.items.size()));
    }
    if (!scored.ok()) {
      LogError("batch failed", {{"sequences", batch.items.size()},
                                {"tokens", batch.tokens},
                                {"error", scored.status()}});
      metrics_->failed_batches.Increment();
      for (const auto& item : batch.items) item.job->Answer(scored.status());
      return;
    }
    metrics_->batches.Increment();
    metrics_->tokens.Increment(static_cast<double>(batch.tokens));
    metrics_->batch_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - start));
    for (size_t i = 0; i < batch.items.size(); ++i) {
      Job& job = *batch.items[i].job;
      job.results[batch.items[i].sequence] = std::move((*scored)[i]);
      if (--job.remaining == 0) job.Answer(std::move(job.results));
    }
  }

  BatchQueue<Job>* const queue_;
  BatchMetrics* const metrics_;
  const std::shared_ptr<Progress> progress_;
  typename Scorer::Description description_;  // constant once loaded_

  absl::Mutex mutex_;
  bool loaded_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status load_status_ ABSL_GUARDED_BY(mutex_);
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace rollcall::batching
