#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/learner.grpc.pb.h"

namespace rollcall::cli {

// Follows a learner: collects its StepMetrics on a thread of its own, coming back with the next
// step when the stream breaks. Thread-safe.
class MetricsWatch {
 public:
  explicit MetricsWatch(std::shared_ptr<grpc::Channel> channel, uint64_t from_step = 0);
  ~MetricsWatch();

  MetricsWatch(const MetricsWatch&) = delete;
  MetricsWatch& operator=(const MetricsWatch&) = delete;

  // What came since the last call, in order. Never blocks.
  std::vector<v1::StepMetrics> Take() ABSL_LOCKS_EXCLUDED(mutex_);

  // The learner's status now; blocks for a second at most. Errors mean that it is not up yet, or no
  // longer.
  absl::StatusOr<v1::LearnerStatus> Status();

 private:
  void Follow() ABSL_LOCKS_EXCLUDED(mutex_);
  void FollowOnce() ABSL_LOCKS_EXCLUDED(mutex_);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Learner::Stub> stub_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t next_step_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::StepMetrics> taken_ ABSL_GUARDED_BY(mutex_);
  // Of the stream that is open; for cancelling it.
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;

  std::thread thread_;  // Last: it uses the fields above.
};

}  // namespace rollcall::cli
