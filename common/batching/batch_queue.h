#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/batching/score_job.h"

namespace rollcall::batching {

struct BatchQueueOptions {
  uint32_t batch_tokens = 16384;          // most tokens in a batch; a longer sequence goes alone
  uint32_t max_waiting_sequences = 4096;  // across jobs
};

// The waiting line between the RPC threads and the engine thread: admits whole jobs up to a bound
// and hands out batches strictly in order of arrival, cut by the token budget. A job may be spread
// over batches, a batch over jobs. Invariant: every admitted job is either handed out whole,
// sequence by sequence, or answered by the queue itself (expired, cancelled, closed). Thread-safe.
//
// A job whose tokens are still to be made takes its places first (Reserve) and joins the line later
// (Push), so that the bound holds for both.
template <typename Job>
class BatchQueue {
 public:
  using JobPtr = std::shared_ptr<Job>;

  BatchQueue(BatchQueueOptions options, Clock* clock) : options_(options), clock_(clock) {}

  // Takes places for `count` sequences. Never blocks. RESOURCE_EXHAUSTED: as many sequences wait as
  // may (more than the bound at once are admitted when nothing waits, so that they can ever run);
  // UNAVAILABLE: closed.
  absl::Status Reserve(size_t count) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (closed_) return absl::UnavailableError("the service is draining");
    if (waiting_ > 0 && waiting_ + count > options_.max_waiting_sequences) {
      return absl::ResourceExhaustedError(absl::StrCat(waiting_, " sequences wait and ", count,
                                                       " more would pass the limit of ",
                                                       options_.max_waiting_sequences));
    }
    waiting_ += count;
    reserved_ += count;
    return absl::OkStatus();
  }

  // Gives reserved places back.
  void Release(size_t count) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    waiting_ -= count;
    reserved_ -= count;
  }

  // Puts a job with as many sequences as were reserved for it at the end of the line; answers it
  // with UNAVAILABLE after Abandon. Never blocks.
  void Push(JobPtr job) ABSL_LOCKS_EXCLUDED(mutex_) {
    const size_t count = job->sequences.size();
    job->results.resize(count);
    job->remaining = count;
    {
      absl::MutexLock lock(&mutex_);
      reserved_ -= count;
      if (!abandoned_) {
        line_.push_back({std::move(job), 0});
        return;
      }
      waiting_ -= count;
    }
    job->Answer(StoppedError());
  }

  // Reserve and Push at once. An error leaves the job unanswered.
  absl::Status Admit(JobPtr job) ABSL_LOCKS_EXCLUDED(mutex_) {
    ROLLCALL_RETURN_IF_ERROR(Reserve(job->sequences.size()));
    Push(std::move(job));
    return absl::OkStatus();
  }

  // Blocks until something waits. nullopt: closed and drained. Called by the engine thread only.
  std::optional<Batch<Job>> Next() ABSL_LOCKS_EXCLUDED(mutex_) {
    while (true) {
      std::vector<JobPtr> expired;
      Batch<Job> batch;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &BatchQueue::Ready));
        expired = TakeExpired();
        if (line_.empty() && expired.empty()) return std::nullopt;
        batch = TakeBatch();
      }
      for (const JobPtr& job : expired) {
        job->Answer(job->cancelled
                        ? absl::CancelledError("the caller went away")
                        : absl::DeadlineExceededError("the deadline passed in the queue"));
      }
      if (!batch.items.empty()) return batch;
    }
  }

  // Ends the intake; what waits or was reserved is still handed out.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

  // Ends the intake and answers everything that waits, now or later, with UNAVAILABLE.
  void Abandon() ABSL_LOCKS_EXCLUDED(mutex_) {
    std::deque<Waiting> abandoned;
    {
      absl::MutexLock lock(&mutex_);
      closed_ = true;
      abandoned_ = true;
      abandoned.swap(line_);
      waiting_ = reserved_;
    }
    for (const Waiting& waiting : abandoned) waiting.job->Answer(StoppedError());
  }

  // Those reserved included.
  size_t waiting_sequences() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return waiting_;
  }

 private:
  struct Waiting {
    JobPtr job;
    size_t next = 0;  // first sequence not handed out yet
  };

  static absl::Status StoppedError() {
    return absl::UnavailableError("the service stopped before this request's turn");
  }

  bool Ready() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !line_.empty() || (closed_ && reserved_ == 0);
  }

  // Takes out the jobs that nobody waits for any more, or that failed in an earlier batch.
  std::vector<JobPtr> TakeExpired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<JobPtr> expired;
    const absl::Time now = clock_->Now();
    std::erase_if(line_, [&](const Waiting& waiting) {
      const Job& job = *waiting.job;
      if (!job.cancelled && !job.answered() && job.deadline > now) return false;
      waiting_ -= job.sequences.size() - waiting.next;
      expired.push_back(waiting.job);
      return true;
    });
    return expired;
  }

  Batch<Job> TakeBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Batch<Job> batch;
    while (!line_.empty()) {
      Waiting& front = line_.front();
      if (!batch.items.empty() && !(batch.items.front().job->mode == front.job->mode)) break;
      const size_t length = front.job->sequences[front.next].token_ids.size();
      if (!batch.items.empty() && batch.tokens + length > options_.batch_tokens) break;
      batch.items.push_back({front.job, front.next});
      batch.tokens += length;
      --waiting_;
      if (++front.next == front.job->sequences.size()) line_.pop_front();
    }
    return batch;
  }

  const BatchQueueOptions options_;
  Clock* const clock_;

  mutable absl::Mutex mutex_;
  std::deque<Waiting> line_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;   // sequences, those of line_ and reserved_
  size_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;  // sequences that are not in line_ yet
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace rollcall::batching
