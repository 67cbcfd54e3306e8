#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace rollcall::reward {

// Wait before try number `attempt` + 1 (attempt from 1): 0.1 s, 0.2 s, 0.4 s, … up to 5 s, each
// shortened by up to a fifth so that calls that failed together do not come back together. `seed`
// fixes the share. Pure.
absl::Duration BackoffAfter(uint32_t attempt, uint64_t seed);

// Runs functions at their time, on one thread of its own; they must not block. Thread-safe.
class RetryTimer {
 public:
  // `clock` must outlive the timer.
  explicit RetryTimer(Clock* clock = Clock::Real());
  // Drops what has not run.
  ~RetryTimer();

  RetryTimer(const RetryTimer&) = delete;
  RetryTimer& operator=(const RetryTimer&) = delete;

  void RunAt(absl::Time time, std::function<void()> function) ABSL_LOCKS_EXCLUDED(mutex_);

  Clock* clock() const { return clock_; }

 private:
  void Loop() ABSL_LOCKS_EXCLUDED(mutex_);
  bool MustLook() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_ || changed_; }

  Clock* const clock_;

  absl::Mutex mutex_;
  std::multimap<absl::Time, std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // Last: it uses the fields above.
};

}  // namespace rollcall::reward
