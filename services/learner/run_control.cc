#include "services/learner/run_control.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"

namespace rollcall::learner {

void RunControl::Pause() {
  absl::MutexLock lock(&mutex_);
  paused_ = true;
}

void RunControl::Resume() {
  absl::MutexLock lock(&mutex_);
  paused_ = false;
}

void RunControl::Stop(const std::string& reason) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || Ended()) return;
    stopping_ = true;
  }
  LogInfo("stopping after the step in progress", {{"reason", reason}});
  if (on_interrupt_) on_interrupt_(absl::CancelledError(absl::StrCat("stopped: ", reason)));
}

void RunControl::Fail(const absl::Status& failure) {
  {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok() || Ended()) return;
    failure_ = failure;
  }
  if (on_interrupt_) on_interrupt_(failure);
}

void RunControl::RequestCheckpoint(CheckpointDone done) {
  {
    absl::MutexLock lock(&mutex_);
    const bool started = status_.phase() != v1::LEARNER_PHASE_UNSPECIFIED &&
                         status_.phase() != v1::LEARNER_PHASE_STARTING;
    if (started && !Ended()) {
      requests_.push_back(std::move(done));
      return;
    }
  }
  done(absl::FailedPreconditionError("the run has not started yet or is over"));
}

RunControl::Go RunControl::AwaitGo() {
  absl::MutexLock lock(&mutex_);
  const v1::LearnerPhase before = status_.phase();
  if (!ShouldWake()) status_.set_phase(v1::LEARNER_PHASE_PAUSED);
  mutex_.Await(absl::Condition(this, &RunControl::ShouldWake));
  status_.set_phase(before);
  if (!failure_.ok() || stopping_) return Go::kEnd;
  return requests_.empty() ? Go::kStep : Go::kSave;
}

std::vector<RunControl::CheckpointDone> RunControl::TakeCheckpointRequests() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(requests_, {});
}

bool RunControl::interrupted() const {
  absl::MutexLock lock(&mutex_);
  return stopping_ || !failure_.ok();
}

bool RunControl::stop_requested() const {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

absl::Status RunControl::failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

void RunControl::SetPhase(v1::LearnerPhase phase, const std::string& waiting_for) {
  absl::MutexLock lock(&mutex_);
  status_.set_phase(phase);
  status_.set_waiting_for(waiting_for);
}

void RunControl::SetRun(uint64_t total_steps, const std::string& run_dir) {
  absl::MutexLock lock(&mutex_);
  status_.set_total_steps(total_steps);
  status_.set_run_dir(run_dir);
}

void RunControl::SetVersion(const v1::PolicyVersion& version) {
  absl::MutexLock lock(&mutex_);
  *status_.mutable_version() = version;
  status_.set_step(version.step());
}

void RunControl::SetCheckpoint(const std::string& folder) {
  absl::MutexLock lock(&mutex_);
  status_.set_checkpoint_dir(folder);
}

void RunControl::SetCounts(const v1::RolloutCounts& counts) {
  absl::MutexLock lock(&mutex_);
  *status_.mutable_rollouts() = counts;
}

void RunControl::SetDataCounts(const v1::DataCounts& counts) {
  absl::MutexLock lock(&mutex_);
  *status_.mutable_data() = counts;
}

void RunControl::End(const absl::Status& result) {
  std::vector<CheckpointDone> refused;
  {
    absl::MutexLock lock(&mutex_);
    status_.set_phase(result.ok() ? v1::LEARNER_PHASE_DONE : v1::LEARNER_PHASE_FAILED);
    status_.set_waiting_for("");
    status_.set_failure(std::string(result.message()));
    refused.swap(requests_);
  }
  for (const CheckpointDone& done : refused) {
    done(absl::FailedPreconditionError("the run is over"));
  }
}

v1::LearnerStatus RunControl::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

}  // namespace rollcall::learner
