#include "services/reward/compose/retry_timer.h"

#include <algorithm>
#include <utility>

#include "common/base/philox.h"

namespace rollcall::reward {

absl::Duration BackoffAfter(uint32_t attempt, uint64_t seed) {
  constexpr absl::Duration kFirst = absl::Milliseconds(100);
  constexpr absl::Duration kMost = absl::Seconds(5);
  const absl::Duration full =
      attempt > 10 ? kMost : std::min(kMost, kFirst * (1 << (std::max(attempt, 1u) - 1)));
  return full * (1 - 0.2 * PhiloxStream(seed, attempt).Uniform());
}

RetryTimer::RetryTimer(Clock* clock) : clock_(clock), thread_([this] { Loop(); }) {}

RetryTimer::~RetryTimer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void RetryTimer::RunAt(absl::Time time, std::function<void()> function) {
  absl::MutexLock lock(&mutex_);
  waiting_.emplace(time, std::move(function));
  changed_ = true;
}

void RetryTimer::Loop() {
  while (true) {
    std::function<void()> due;
    {
      absl::MutexLock lock(&mutex_);
      changed_ = false;
      const absl::Time next = waiting_.empty() ? absl::InfiniteFuture() : waiting_.begin()->first;
      clock_->AwaitWithDeadline(&mutex_, absl::Condition(this, &RetryTimer::MustLook), next);
      if (stopping_) return;
      if (waiting_.empty() || waiting_.begin()->first > clock_->Now()) continue;
      due = std::move(waiting_.begin()->second);
      waiting_.erase(waiting_.begin());
    }
    due();
  }
}

}  // namespace rollcall::reward
