#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/logprob.pb.h"
#include "services/reference/batch_queue.h"
#include "services/reference/engine/scorer.h"
#include "services/reference/reference_metrics.h"

namespace rollcall::reference {

// The thread that owns the frozen model: it loads it, then scores batches in order of arrival until
// the queue is closed and drained. A batch that fails is an error of the jobs in it; the engine
// goes on. Thread-safe.
class Engine {
 public:
  // Loads the model; runs on the engine thread.
  using Loader = std::function<absl::StatusOr<std::unique_ptr<Scorer>>()>;

  // Starts the thread and blocks until the model is loaded, or returns why it was not. `queue` and
  // `metrics` must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Start(Loader load, BatchQueue* queue,
                                                       ReferenceMetrics* metrics);
  // Closes the queue, scores what waits, and joins. Abandon the queue first for a quick end.
  ~Engine();

  // Blocks until all that was admitted is answered, after the queue was closed, or until the
  // deadline; whether it is.
  bool AwaitDrained(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  const v1::ModelDescription& description() const { return description_; }

 private:
  Engine(BatchQueue* queue, ReferenceMetrics* metrics) : queue_(queue), metrics_(metrics) {}

  void Run(const Loader& load);
  void ScoreBatch(Scorer& scorer, const Batch& batch);

  BatchQueue* const queue_;
  ReferenceMetrics* const metrics_;
  v1::ModelDescription description_;  // constant once loaded_

  absl::Mutex mutex_;
  bool loaded_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status load_status_ ABSL_GUARDED_BY(mutex_);
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;
};

}  // namespace rollcall::reference
