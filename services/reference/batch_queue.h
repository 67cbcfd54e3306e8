#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "services/reference/score_job.h"

namespace rollcall::reference {

// Sequences of one or more jobs that are scored in one forward pass; all share temperature and
// with_entropy.
struct Batch {
  struct Item {
    ScoreJobPtr job;
    size_t sequence = 0;  // index into job->sequences
  };
  std::vector<Item> items;
  size_t tokens = 0;
};

struct BatchQueueOptions {
  uint32_t batch_tokens = 16384;          // most tokens in a batch; a longer sequence goes alone
  uint32_t max_waiting_sequences = 4096;  // across jobs
};

// The waiting line between the RPC threads and the engine thread: admits whole jobs up to a bound
// and hands out batches strictly in order of arrival, cut by the token budget. A job may be spread
// over batches, a batch over jobs. Invariant: every admitted job is either handed out whole,
// sequence by sequence, or answered by the queue itself (expired, cancelled, closed). Thread-safe.
class BatchQueue {
 public:
  BatchQueue(BatchQueueOptions options, Clock* clock) : options_(options), clock_(clock) {}

  // Never blocks. RESOURCE_EXHAUSTED: as many sequences wait as may (a job larger than the bound is
  // admitted when the line is empty, so that it can ever run); UNAVAILABLE: closed.
  absl::Status Admit(ScoreJobPtr job) ABSL_LOCKS_EXCLUDED(mutex_);

  // Blocks until something waits. nullopt: closed and drained. Called by the engine thread only.
  std::optional<Batch> Next() ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the intake; what waits is still handed out.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the intake and answers everything that waits with UNAVAILABLE.
  void Abandon() ABSL_LOCKS_EXCLUDED(mutex_);

  size_t waiting_sequences() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Waiting {
    ScoreJobPtr job;
    size_t next = 0;  // first sequence not handed out yet
  };

  bool Ready() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return closed_ || !line_.empty(); }
  // Takes out the jobs that nobody waits for any more, or that failed in an earlier batch.
  std::vector<ScoreJobPtr> TakeExpired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Batch TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const BatchQueueOptions options_;
  Clock* const clock_;

  mutable absl::Mutex mutex_;
  std::deque<Waiting> line_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace rollcall::reference
