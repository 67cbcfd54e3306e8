#pragma once

#include <grpcpp/client_context.h>

#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace rollcall::cli {

// Ends the calls of many threads at once. Thread-safe.
class ActiveCalls {
 public:
  explicit ActiveCalls(Clock* clock = Clock::Real()) : clock_(clock) {}

  // Cancels every call and lets no further one begin.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);
  bool stopped() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Blocks until Stop or for `duration`; true when stopped.
  bool AwaitStop(absl::Duration duration) const ABSL_LOCKS_EXCLUDED(mutex_);

  // A call while it runs; `context` must outlive it.
  class Scope {
   public:
    Scope(ActiveCalls& calls, grpc::ClientContext* context);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    // False: it was stopped before it began, and the call must not be made.
    bool may_begin() const { return may_begin_; }

   private:
    ActiveCalls& calls_;
    grpc::ClientContext* const context_;
    bool may_begin_ = false;
  };

 private:
  Clock* const clock_;
  mutable absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::cli
