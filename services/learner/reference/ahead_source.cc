#include "services/learner/reference/ahead_source.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace rollcall::learner {

AheadSource::AheadSource(std::unique_ptr<BatchSource> inner,
                         std::function<absl::Status(TrainBatch&)> prepare,
                         std::function<void()> cancel, uint64_t last_step)
    : inner_(std::move(inner)),
      prepare_(std::move(prepare)),
      cancel_(std::move(cancel)),
      last_step_(last_step) {}

AheadSource::~AheadSource() {
  Stop(absl::CancelledError("stopped"));
  if (thread_.joinable()) thread_.join();
}

void AheadSource::Draw(uint64_t first_step) {
  for (uint64_t step = first_step; step <= last_step_; ++step) {
    absl::StatusOr<TrainBatch> batch = inner_->Next(step);
    if (batch.ok()) {
      if (const absl::Status prepared = prepare_(*batch); !prepared.ok()) batch = prepared;
    }
    const bool ok = batch.ok();
    if (!finished_.Push(std::move(batch)) || !ok) break;
  }
  finished_.Close();
}

absl::StatusOr<TrainBatch> AheadSource::Next(uint64_t step) {
  if (!next_step_.has_value()) {
    next_step_ = step;
    thread_ = std::thread([this, step] { Draw(step); });
  }
  if (step != *next_step_) {
    return absl::FailedPreconditionError(
        absl::StrCat("batches are drawn one after the other: step ", *next_step_,
                     " is next, asked for was ", step));
  }
  std::optional<absl::StatusOr<TrainBatch>> batch = finished_.Pop();
  {
    absl::MutexLock lock(&mutex_);
    if (!stopped_.ok()) return stopped_;
  }
  if (!batch.has_value()) {
    return absl::OutOfRangeError(absl::StrCat("step ", last_step_, " was the last"));
  }
  ++*next_step_;
  return *std::move(batch);
}

void AheadSource::Stop(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    stopped_.Update(status);
  }
  finished_.Close();
  cancel_();
}

}  // namespace rollcall::learner
