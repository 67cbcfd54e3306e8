#pragma once

#include <atomic>
#include <memory>

#include "absl/status/status.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/learner_metrics.h"
#include "services/learner/trainer/process_group.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {

// A run on a rank above 0: its share of every training step, and nothing else. Needs the model of
// model.path (and of the objective's companions) and no other file: what was trained so far comes
// from rank 0.
class RankFollower {
 public:
  // Both must outlive it.
  RankFollower(const v1::RunConfig& config, LearnerMetrics* metrics)
      : config_(config), metrics_(metrics) {}

  // Blocks until rank 0 ends the run: OK when it went well. Otherwise this rank's own failure, or
  // UNAVAILABLE, IsPeerLost.
  absl::Status Run();

  // Asks rank 0 to end the run, with a checkpoint, after the step in progress. Any thread.
  void Stop() { stopping_ = true; }

 private:
  absl::Status Join();
  // One command; false when the run is over.
  absl::StatusOr<bool> Follow();
  absl::Status Train(const std::string& batch);

  const v1::RunConfig& config_;
  LearnerMetrics* const metrics_;
  std::unique_ptr<ProcessGroup> group_;
  std::unique_ptr<Trainer> trainer_;
  std::atomic<bool> stopping_ = false;
};

}  // namespace rollcall::learner
