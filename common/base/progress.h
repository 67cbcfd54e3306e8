#pragma once

#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace rollcall {

// Whether the work of a service goes on: its loop says when work waits and when a piece of it is
// done, and others ask how long waiting work has stood still. An idle service never stands still.
// Thread-safe; nothing here blocks.
class Progress {
 public:
  // `clock` must outlive it.
  explicit Progress(Clock* clock = Clock::Real()) : clock_(clock) {}

  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Work waits; the time runs from now on, unless it runs already.
  void Begin() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (!since_) since_ = clock_->Now();
  }

  // A piece of work is done. The time begins anew where more waits, else it stops.
  void Advance(bool more_waits) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    since_.reset();
    if (more_waits) since_ = clock_->Now();
  }

  // 0 while no work waits.
  absl::Duration StandsStillFor() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return since_ ? clock_->Now() - *since_ : absl::ZeroDuration();
  }

 private:
  Clock* const clock_;
  mutable absl::Mutex mutex_;
  // When the last piece was done, or work came; unset while none waits.
  std::optional<absl::Time> since_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall
