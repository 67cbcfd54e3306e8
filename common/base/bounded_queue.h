#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace rollcall {

// A first-in first-out hand-off between threads that holds at most `capacity` items. Closing it
// ends the intake; what was pushed before is still delivered, so the end of the stream is "closed
// and drained", never a lost item. Thread-safe; any number of producers and consumers. The queue
// must outlive the threads that block on it.
template <typename T>
class BoundedQueue {
 public:
  // `capacity` is at least 1 (0 is taken as 1). `clock` rules PopFor's time and must outlive the
  // queue.
  explicit BoundedQueue(size_t capacity, Clock* clock = Clock::Real())
      : capacity_(capacity == 0 ? 1 : capacity), clock_(clock) {}

  BoundedQueue(const BoundedQueue&) = delete;
  BoundedQueue& operator=(const BoundedQueue&) = delete;

  // Blocks while the queue is full. False, and `item` is gone, when the queue is or becomes closed.
  bool Push(T item) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &BoundedQueue::MayPush));
    if (closed_) return false;
    items_.push_back(std::move(item));
    return true;
  }

  // Never blocks. Moves from `item` only when it returns true; false when the queue is full or
  // closed.
  bool TryPush(T& item) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || items_.size() >= capacity_) return false;
    items_.push_back(std::move(item));
    return true;
  }

  // Blocks while the queue is empty and open. nullopt: closed and drained.
  std::optional<T> Pop() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &BoundedQueue::MayPop));
    return TakeFront();
  }

  // As Pop, but gives up after `timeout`; zero never blocks. After nullopt, drained() tells the end
  // from a timeout.
  std::optional<T> PopFor(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::Time deadline = clock_->Now() + timeout;
    absl::MutexLock lock(&mutex_);
    clock_->AwaitWithDeadline(&mutex_, absl::Condition(this, &BoundedQueue::MayPop), deadline);
    return TakeFront();
  }

  // Refuses further items and wakes everyone who waits. Idempotent; never blocks.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

  size_t size() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return items_.size();
  }

  bool closed() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }

  // Closed and empty: no Pop will ever yield an item again.
  bool drained() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return closed_ && items_.empty();
  }

  size_t capacity() const { return capacity_; }

 private:
  bool MayPush() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return closed_ || items_.size() < capacity_;
  }
  bool MayPop() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return closed_ || !items_.empty(); }

  std::optional<T> TakeFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    return item;
  }

  const size_t capacity_;
  Clock* const clock_;

  mutable absl::Mutex mutex_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace rollcall
