#include "services/reference/batch_queue.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace rollcall::reference {

absl::Status BatchQueue::Admit(ScoreJobPtr job) {
  const size_t count = job->sequences.size();
  absl::MutexLock lock(&mutex_);
  if (closed_) return absl::UnavailableError("the service is draining");
  if (waiting_ > 0 && waiting_ + count > options_.max_waiting_sequences) {
    return absl::ResourceExhaustedError(absl::StrCat(waiting_, " sequences wait and ", count,
                                                     " more would pass the limit of ",
                                                     options_.max_waiting_sequences));
  }
  job->results.resize(count);
  job->remaining = count;
  waiting_ += count;
  line_.push_back({std::move(job), 0});
  return absl::OkStatus();
}

std::optional<Batch> BatchQueue::Next() {
  while (true) {
    std::vector<ScoreJobPtr> expired;
    Batch batch;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &BatchQueue::Ready));
      expired = TakeExpired();
      if (line_.empty() && expired.empty()) return std::nullopt;
      batch = TakeBatch();
    }
    for (const ScoreJobPtr& job : expired) {
      job->Answer(job->cancelled ? absl::CancelledError("the caller went away")
                                 : absl::DeadlineExceededError("the deadline passed in the queue"));
    }
    if (!batch.items.empty()) return batch;
  }
}

std::vector<ScoreJobPtr> BatchQueue::TakeExpired() {
  std::vector<ScoreJobPtr> expired;
  const absl::Time now = clock_->Now();
  std::erase_if(line_, [&](const Waiting& waiting) {
    const ScoreJob& job = *waiting.job;
    if (!job.cancelled && !job.answered() && job.deadline > now) return false;
    waiting_ -= job.sequences.size() - waiting.next;
    expired.push_back(waiting.job);
    return true;
  });
  return expired;
}

Batch BatchQueue::TakeBatch() {
  Batch batch;
  while (!line_.empty()) {
    Waiting& front = line_.front();
    if (!batch.items.empty()) {
      const ScoreJob& first = *batch.items.front().job;
      if (first.temperature != front.job->temperature ||
          first.with_entropy != front.job->with_entropy) {
        break;
      }
    }
    const size_t length = front.job->sequences[front.next].token_ids.size();
    if (!batch.items.empty() && batch.tokens + length > options_.batch_tokens) break;
    batch.items.push_back({front.job, front.next});
    batch.tokens += length;
    --waiting_;
    if (++front.next == front.job->sequences.size()) line_.pop_front();
  }
  return batch;
}

void BatchQueue::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

void BatchQueue::Abandon() {
  std::deque<Waiting> abandoned;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    abandoned.swap(line_);
    waiting_ = 0;
  }
  for (const Waiting& waiting : abandoned) {
    waiting.job->Answer(absl::UnavailableError("the service stopped before this request's turn"));
  }
}

size_t BatchQueue::waiting_sequences() const {
  absl::MutexLock lock(&mutex_);
  return waiting_;
}

}  // namespace rollcall::reference
