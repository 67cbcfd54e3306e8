#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/progress.h"

namespace rollcall::rpc {

// Looks at a service's progress from a thread of its own and says when its work has stood still for
// `timeout`, and when it goes on again; a few looks to each timeout, so either is told within an
// eighth of it.
class LivenessWatch {
 public:
  // `report` is called with false, and with true later, on this object's thread; never with true at
  // first. `clock` must outlive it.
  LivenessWatch(std::shared_ptr<const Progress> progress, absl::Duration timeout,
                std::function<void(bool live)> report, Clock* clock = Clock::Real());
  // Joins the thread; nothing is reported afterwards.
  ~LivenessWatch();

  LivenessWatch(const LivenessWatch&) = delete;
  LivenessWatch& operator=(const LivenessWatch&) = delete;

 private:
  void Run();

  const std::shared_ptr<const Progress> progress_;
  const absl::Duration timeout_;
  const std::function<void(bool)> report_;
  Clock* const clock_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses the fields above
};

}  // namespace rollcall::rpc
