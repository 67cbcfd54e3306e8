#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/bounded_queue.h"
#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// A source whose batches are drawn and completed on a thread of its own while the trainer still
// works on the one before: one finished batch waits, one is in the making.
class AheadSource final : public BatchSource {
 public:
  // `prepare` completes a batch and may block; `cancel` makes it return soon, from then on. `inner`
  // and `prepare` are used by the own thread alone. Nothing is drawn beyond `last_step`.
  AheadSource(std::unique_ptr<BatchSource> inner, std::function<absl::Status(TrainBatch&)> prepare,
              std::function<void()> cancel, uint64_t last_step);
  // Stops.
  ~AheadSource() override;

  // Steps are asked for one after the other; the first call says where to begin. Statuses of the
  // inner source and of `prepare`; what Stop was given; FAILED_PRECONDITION for a step out of turn.
  absl::StatusOr<TrainBatch> Next(uint64_t step) override;

  // Wakes Next with `status`, now and later. Any thread; does not block.
  void Stop(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Draw(uint64_t first_step);

  const std::unique_ptr<BatchSource> inner_;
  const std::function<absl::Status(TrainBatch&)> prepare_;
  const std::function<void()> cancel_;
  const uint64_t last_step_;

  BoundedQueue<absl::StatusOr<TrainBatch>> finished_{1};
  std::optional<uint64_t> next_step_;  // of the caller's thread
  std::thread thread_;

  absl::Mutex mutex_;
  absl::Status stopped_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
