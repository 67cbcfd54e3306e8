// Shows ThreadSanitizer the synchronisation inside the distribution's Abseil, which was built
// without it: every function below takes the place of Abseil's own in the whole process (gRPC
// included), tells the sanitizer what it orders, and calls the original. Built only where
// ROLLCALL_SANITIZE is "thread"; without it every guarded field looks like a race.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <atomic>
#include <cstdlib>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace {

using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Time;

// The mutex that this thread is inside of. Abseil evaluates the conditions of other waiters while
// it unlocks, after the release was told, and a waiter's own before it returns: each evaluation
// tells of both.
thread_local Mutex* current = nullptr;

class Inside {
 public:
  explicit Inside(Mutex* mutex) : outer_(current) { current = mutex; }
  ~Inside() { current = outer_; }

 private:
  Mutex* const outer_;
};

// The next definition of `symbol` after the executable's.
template <typename Function>
Function Original(const char* symbol, std::atomic<void*>& cache) {
  void* found = cache.load(std::memory_order_relaxed);
  if (found == nullptr) {
    found = dlsym(RTLD_NEXT, symbol);
    if (found == nullptr) std::abort();
    cache.store(found, std::memory_order_relaxed);
  }
  return reinterpret_cast<Function>(found);
}

// Calls the original of the enclosing function.
#define ROLLCALL_ORIGINAL(result, symbol, parameters, ...)             \
  ([&]() __attribute__((no_sanitize("thread"))) {                      \
    static std::atomic<void*> cache;                                   \
    return Original<result(*) parameters>(symbol, cache)(__VA_ARGS__); \
  }())

}  // namespace

#define ROLLCALL_LOCK(name, symbol)                   \
  extern "C" void name(Mutex* mutex) __asm__(symbol); \
  extern "C" void name(Mutex* mutex) {                \
    ROLLCALL_ORIGINAL(void, symbol, (Mutex*), mutex); \
    __tsan_acquire(mutex);                            \
  }

#define ROLLCALL_TRY_LOCK(name, symbol)                                   \
  extern "C" bool name(Mutex* mutex) __asm__(symbol);                     \
  extern "C" bool name(Mutex* mutex) {                                    \
    const bool locked = ROLLCALL_ORIGINAL(bool, symbol, (Mutex*), mutex); \
    if (locked) __tsan_acquire(mutex);                                    \
    return locked;                                                        \
  }

#define ROLLCALL_UNLOCK(name, symbol)                 \
  extern "C" void name(Mutex* mutex) __asm__(symbol); \
  extern "C" void name(Mutex* mutex) {                \
    const Inside inside(mutex);                       \
    __tsan_release(mutex);                            \
    ROLLCALL_ORIGINAL(void, symbol, (Mutex*), mutex); \
  }

// LockWhen and Await, without and with a limit. To let go before waiting is only true of Await, and
// harmless for LockWhen.
#define ROLLCALL_WAIT(name, symbol)                                                \
  extern "C" void name(Mutex* mutex, const Condition& condition) __asm__(symbol);  \
  extern "C" void name(Mutex* mutex, const Condition& condition) {                 \
    const Inside inside(mutex);                                                    \
    __tsan_release(mutex);                                                         \
    ROLLCALL_ORIGINAL(void, symbol, (Mutex*, const Condition&), mutex, condition); \
    __tsan_acquire(mutex);                                                         \
  }
#define ROLLCALL_WAIT_UNTIL(name, symbol, Limit)                                                \
  extern "C" bool name(Mutex* mutex, const Condition& condition, Limit limit) __asm__(symbol);  \
  extern "C" bool name(Mutex* mutex, const Condition& condition, Limit limit) {                 \
    const Inside inside(mutex);                                                                 \
    __tsan_release(mutex);                                                                      \
    const bool held = ROLLCALL_ORIGINAL(bool, symbol, (Mutex*, const Condition&, Limit), mutex, \
                                        condition, limit);                                      \
    __tsan_acquire(mutex);                                                                      \
    return held;                                                                                \
  }

ROLLCALL_LOCK(rollcall_tsan_lock, "_ZN4absl7debian35Mutex4LockEv")
ROLLCALL_LOCK(rollcall_tsan_reader_lock, "_ZN4absl7debian35Mutex10ReaderLockEv")
ROLLCALL_TRY_LOCK(rollcall_tsan_try_lock, "_ZN4absl7debian35Mutex7TryLockEv")
ROLLCALL_TRY_LOCK(rollcall_tsan_reader_try_lock, "_ZN4absl7debian35Mutex13ReaderTryLockEv")
ROLLCALL_UNLOCK(rollcall_tsan_unlock, "_ZN4absl7debian35Mutex6UnlockEv")
ROLLCALL_UNLOCK(rollcall_tsan_reader_unlock, "_ZN4absl7debian35Mutex12ReaderUnlockEv")
ROLLCALL_WAIT(rollcall_tsan_lock_when, "_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE")
ROLLCALL_WAIT(rollcall_tsan_await, "_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE")
ROLLCALL_WAIT_UNTIL(rollcall_tsan_lock_when_timeout,
                    "_ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE",
                    Duration)
ROLLCALL_WAIT_UNTIL(rollcall_tsan_lock_when_deadline,
                    "_ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE",
                    Time)
ROLLCALL_WAIT_UNTIL(rollcall_tsan_await_timeout,
                    "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE",
                    Duration)
ROLLCALL_WAIT_UNTIL(rollcall_tsan_await_deadline,
                    "_ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE", Time)

extern "C" void rollcall_tsan_condvar_wait(CondVar* condition, Mutex* mutex) __asm__(
    "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE");
extern "C" void rollcall_tsan_condvar_wait(CondVar* condition, Mutex* mutex) {
  const Inside inside(mutex);
  __tsan_release(mutex);
  ROLLCALL_ORIGINAL(void, "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE", (CondVar*, Mutex*),
                    condition, mutex);
  __tsan_acquire(mutex);
}

#define ROLLCALL_CONDVAR_WAIT_UNTIL(name, symbol, Limit)                                     \
  extern "C" bool name(CondVar* condition, Mutex* mutex, Limit limit) __asm__(symbol);       \
  extern "C" bool name(CondVar* condition, Mutex* mutex, Limit limit) {                      \
    const Inside inside(mutex);                                                              \
    __tsan_release(mutex);                                                                   \
    const bool expired =                                                                     \
        ROLLCALL_ORIGINAL(bool, symbol, (CondVar*, Mutex*, Limit), condition, mutex, limit); \
    __tsan_acquire(mutex);                                                                   \
    return expired;                                                                          \
  }
ROLLCALL_CONDVAR_WAIT_UNTIL(rollcall_tsan_condvar_wait_timeout,
                            "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE",
                            Duration)
ROLLCALL_CONDVAR_WAIT_UNTIL(rollcall_tsan_condvar_wait_deadline,
                            "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE",
                            Time)

extern "C" bool rollcall_tsan_eval(const Condition* condition) __asm__(
    "_ZNK4absl7debian39Condition4EvalEv");
extern "C" bool rollcall_tsan_eval(const Condition* condition) {
  if (current != nullptr) __tsan_acquire(current);
  const bool held =
      ROLLCALL_ORIGINAL(bool, "_ZNK4absl7debian39Condition4EvalEv", (const Condition*), condition);
  if (current != nullptr) __tsan_release(current);
  return held;
}
