#include "services/learner/data/read_ahead.h"

#include <utility>

namespace rollcall::learner {

absl::StatusOr<TrainBatch> ReadAheadSource::Next(uint64_t step) {
  absl::StatusOr<TrainBatch> batch = absl::UnknownError("not read yet");
  const bool was_ahead = ahead_.valid();
  if (was_ahead) batch = ahead_.get();
  if (!was_ahead || ahead_step_ != step) batch = source_->Next(step);
  if (!batch.ok()) return batch;
  ahead_step_ = step + 1;
  ahead_ =
      std::async(std::launch::async, [this, next = ahead_step_] { return source_->Next(next); });
  return batch;
}

}  // namespace rollcall::learner
