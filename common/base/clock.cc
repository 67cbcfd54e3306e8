#include "common/base/clock.h"

#include <vector>

#include "absl/time/clock.h"

namespace rollcall {
namespace {

class RealClock final : public Clock {
 public:
  absl::Time Now() override { return absl::Now(); }
  bool AwaitWithDeadline(absl::Mutex* mutex, const absl::Condition& condition,
                         absl::Time deadline) override ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return mutex->AwaitWithDeadline(condition, deadline);
  }
};

}  // namespace

Clock* Clock::Real() {
  static RealClock* const clock = new RealClock;
  return clock;
}

absl::Time SimulatedClock::Now() {
  absl::MutexLock lock(&lock_);
  return now_;
}

bool SimulatedClock::AwaitWithDeadline(absl::Mutex* mutex, const absl::Condition& condition,
                                       absl::Time deadline) {
  while (!condition.Eval()) {
    Waiter waiter{.mutex = mutex, .deadline = deadline};
    lock_.Lock();
    if (now_ >= deadline) {
      lock_.Unlock();
      return false;
    }
    const auto position = waiters_.insert(waiters_.end(), &waiter);
    lock_.Unlock();

    auto done = [&] { return waiter.woken || condition.Eval(); };
    mutex->Await(absl::Condition(&done));

    lock_.Lock();
    waiters_.erase(position);
    const bool pinned = waiter.pins > 0;
    lock_.Unlock();
    if (pinned) {
      // Advance() is about to lock our mutex to wake us: let it, and look at the condition again.
      mutex->Unlock();
      auto unpinned = [&] { return waiter.pins == 0; };
      lock_.LockWhen(absl::Condition(&unpinned));
      lock_.Unlock();
      mutex->Lock();
    }
  }
  return true;
}

void SimulatedClock::Advance(absl::Duration duration) {
  std::vector<Waiter*> due;
  {
    absl::MutexLock lock(&lock_);
    now_ += duration;
    for (Waiter* waiter : waiters_) {
      if (waiter->deadline > now_) continue;
      ++waiter->pins;
      due.push_back(waiter);
    }
  }
  for (Waiter* waiter : due) {
    {
      absl::MutexLock lock(waiter->mutex);
      waiter->woken = true;
    }
    absl::MutexLock lock(&lock_);
    --waiter->pins;
  }
}

bool SimulatedClock::AwaitWaiters(int count, absl::Duration timeout) {
  absl::MutexLock lock(&lock_);
  auto enough = [&] { return static_cast<int>(waiters_.size()) >= count; };
  return lock_.AwaitWithTimeout(absl::Condition(&enough), timeout);
}

}  // namespace rollcall
