#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/identity.pb.h"
#include "rollcall/v1/learner.pb.h"

namespace rollcall::learner {

// Where the training thread and those who watch and steer it meet: RPC handlers, the signal's
// drain, failures found by other threads. Thread-safe; only AwaitGo blocks.
class RunControl {
 public:
  using CheckpointDone = std::function<void(absl::StatusOr<std::string>)>;

  // Steering, by any thread.
  void Pause() ABSL_LOCKS_EXCLUDED(mutex_);
  void Resume() ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the run after the step in progress, with a checkpoint. The first reason stays.
  void Stop(const std::string& reason) ABSL_LOCKS_EXCLUDED(mutex_);
  // Ends the run with this error as soon as it is safe. The first one stays.
  void Fail(const absl::Status& failure) ABSL_LOCKS_EXCLUDED(mutex_);
  // `done` is called once, by the training thread after the step in progress, or here and now with
  // FAILED_PRECONDITION when the run has not started or is over.
  void RequestCheckpoint(CheckpointDone done) ABSL_LOCKS_EXCLUDED(mutex_);

  // Called, without a lock, by Stop and Fail with CANCELLED or the failure: wakes what the training
  // thread may be blocked in. Set before any other thread knows this object.
  void OnInterrupt(std::function<void(const absl::Status&)> callback) {
    on_interrupt_ = std::move(callback);
  }

  // For the training thread. Blocks while paused.
  enum class Go { kStep, kSave, kEnd };
  // kStep: train on; kSave: answer TakeCheckpointRequests, then ask again; kEnd: stopped or failed.
  Go AwaitGo() ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<CheckpointDone> TakeCheckpointRequests() ABSL_LOCKS_EXCLUDED(mutex_);
  bool interrupted() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool stop_requested() const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status failure() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Status, written by the training thread.
  void SetPhase(v1::LearnerPhase phase, const std::string& waiting_for = "")
      ABSL_LOCKS_EXCLUDED(mutex_);
  void SetRun(uint64_t total_steps, const std::string& run_dir) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetVersion(const v1::PolicyVersion& version) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetCheckpoint(const std::string& folder) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetCounts(const v1::RolloutCounts& counts) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetDataCounts(const v1::DataCounts& counts) ABSL_LOCKS_EXCLUDED(mutex_);
  // Nothing follows: phase DONE or FAILED; pending checkpoint requests are refused.
  void End(const absl::Status& result) ABSL_LOCKS_EXCLUDED(mutex_);

  v1::LearnerStatus status() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  bool ShouldWake() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !paused_ || stopping_ || !failure_.ok() || !requests_.empty();
  }
  bool Ended() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return status_.phase() == v1::LEARNER_PHASE_DONE || status_.phase() == v1::LEARNER_PHASE_FAILED;
  }

  std::function<void(const absl::Status&)> on_interrupt_;

  mutable absl::Mutex mutex_;
  v1::LearnerStatus status_ ABSL_GUARDED_BY(mutex_);
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<CheckpointDone> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
