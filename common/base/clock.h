#pragma once

#include <list>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace rollcall {

// Time as something that is passed in, wherever time decides: deadlines, back-off, staleness,
// rates. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  virtual absl::Time Now() = 0;

  // Like absl::Mutex::AwaitWithDeadline on this clock's time: blocks until `condition` holds or
  // Now() >= deadline, and returns whether it holds. The caller holds `mutex` exclusively, and
  // again at the return.
  virtual bool AwaitWithDeadline(absl::Mutex* mutex, const absl::Condition& condition,
                                 absl::Time deadline) = 0;

  // The process's own clock; never destroyed.
  static Clock* Real();
};

// A clock that moves only when told to, for tests. It must outlive everyone who waits on it.
class SimulatedClock : public Clock {
 public:
  explicit SimulatedClock(absl::Time start = absl::UnixEpoch()) : now_(start) {}

  absl::Time Now() override ABSL_LOCKS_EXCLUDED(lock_);
  bool AwaitWithDeadline(absl::Mutex* mutex, const absl::Condition& condition,
                         absl::Time deadline) override ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // Moves time forward and wakes the waiters whose deadline has come. The caller holds no mutex
  // that is waited on.
  void Advance(absl::Duration duration) ABSL_LOCKS_EXCLUDED(lock_);

  // Blocks (in real time) until `count` threads wait with a deadline in the future, or returns
  // false after `timeout`: lets a test advance the clock only once the thread under test sleeps.
  bool AwaitWaiters(int count, absl::Duration timeout) ABSL_LOCKS_EXCLUDED(lock_);

 private:
  // One blocked call of AwaitWithDeadline; lives on its stack.
  struct Waiter {
    absl::Mutex* mutex;
    absl::Time deadline;
    int pins = 0;        // Advance() calls that hold a pointer to this; guarded by lock_
    bool woken = false;  // guarded by *mutex
  };

  absl::Mutex lock_;  // Taken after a waiter's mutex, never before it.
  absl::Time now_ ABSL_GUARDED_BY(lock_);
  std::list<Waiter*> waiters_ ABSL_GUARDED_BY(lock_);
};

}  // namespace rollcall
