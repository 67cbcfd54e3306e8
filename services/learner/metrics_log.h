#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/file_descriptor.h"
#include "common/wire/event_file.h"
#include "rollcall/v1/learner.pb.h"

namespace rollcall::learner {

// The figures of every step: appended to <run>/metrics.jsonl, one line a step ({"step": 7, "time":
// …, "reward/mean": …}), and to an event file of TensorBoard in the folder tensorboard beside it,
// and kept for those who watch. Thread-safe.
class MetricsLog {
 public:
  // Opens or makes the file. Lines after `resumed_step` are removed (a later lineage trains those
  // steps again), all of them when it is 0; a torn last line is removed too.
  static absl::StatusOr<std::unique_ptr<MetricsLog>> Open(const std::string& path,
                                                          uint64_t resumed_step,
                                                          Clock* clock = Clock::Real());

  // One step's figures, by the training thread; writes the line, then tells the listeners.
  absl::Status Append(uint64_t step, const std::map<std::string, double>& values)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Number of entries, and the entry at an index below it.
  size_t size() const ABSL_LOCKS_EXCLUDED(mutex_);
  v1::StepMetrics At(size_t index) const ABSL_LOCKS_EXCLUDED(mutex_);
  // The first index whose step is at least `step`.
  size_t IndexOf(uint64_t step) const ABSL_LOCKS_EXCLUDED(mutex_);

  // No more entries follow.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_);
  bool closed() const ABSL_LOCKS_EXCLUDED(mutex_);

  // `listener` is called, on the appending thread and without a lock, after every Append and Close;
  // it is forgotten when it returns false.
  void Listen(std::function<bool()> listener) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  MetricsLog(FileDescriptor file, std::unique_ptr<EventFileWriter> events,
             std::vector<v1::StepMetrics> entries, Clock* clock)
      : clock_(clock),
        file_(std::move(file)),
        events_(std::move(events)),
        entries_(std::move(entries)) {}

  void Tell() ABSL_LOCKS_EXCLUDED(mutex_);

  Clock* const clock_;
  // The training thread's.
  const FileDescriptor file_;
  const std::unique_ptr<EventFileWriter> events_;

  mutable absl::Mutex mutex_;
  std::vector<v1::StepMetrics> entries_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::function<bool()>> listeners_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
