#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/metrics/registry.h"

namespace grpc {
class ServerBuilder;
}

namespace rollcall::rpc {

// Counts the calls that a server is running, without those that only watch it (health, reflection):
// a drain waits for the former, and ends the latter as soon as it is alone with them. Thread-safe.
class CallCounter {
 public:
  // Counts the calls of the server that `builder` is about to make, and exports them where
  // `metrics` is given.
  static std::shared_ptr<CallCounter> Install(grpc::ServerBuilder* builder,
                                              metrics::Registry* metrics = nullptr);

  void Enter() ABSL_LOCKS_EXCLUDED(mutex_);
  void Leave() ABSL_LOCKS_EXCLUDED(mutex_);
  int running() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Blocks until no call runs; false when some still do at the deadline.
  bool AwaitIdle(absl::Time deadline) const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable absl::Mutex mutex_;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace rollcall::rpc
