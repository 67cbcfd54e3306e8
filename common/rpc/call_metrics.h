#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/metrics/registry.h"

namespace rollcall::rpc {

// Calls that a server answered, by method and status: rollcall_rpc_server_calls_total and
// rollcall_rpc_server_seconds. Methods that no contract of this process has are counted as "other",
// so a peer cannot make series. Thread-safe.
class CallMetrics {
 public:
  explicit CallMetrics(metrics::Registry* registry) : registry_(registry) {}

  // `method`: "/rollcall.v1.Weights/Push".
  void Record(std::string_view method, absl::StatusCode code, absl::Duration took)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  metrics::Registry* const registry_;
  absl::Mutex mutex_;
  // By the method's label. Adding to the registry takes a search each time.
  std::map<std::string, metrics::Histogram*> seconds_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string, absl::StatusCode>, metrics::Counter*> calls_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::rpc
