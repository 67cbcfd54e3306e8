#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/rollout/group_runner.h"
#include "services/learner/rollout/group_spec.h"
#include "services/learner/rollout/ledger.h"

namespace rollcall::learner {

struct EvaluatorOptions {
  std::string run_id;
  uint64_t lineage = 1;
  // What every group has in common: samples, sampling, stop, whom to ask. min_valid_samples is 1.
  GroupSpec group;
  absl::Duration stall_timeout = absl::Minutes(10);
};

// Samples and scores the held-out prompts with the current weights. Group ids are step * prompts +
// index, so no two evaluations of a run share noise and the same step repeats its own.
class Evaluator {
 public:
  // Pointers must outlive it; `ledger` may be null.
  Evaluator(EvaluatorOptions options, std::vector<v1::PromptRow> prompts, GroupRunner* runner,
            Ledger* ledger, Clock* clock = Clock::Real());

  // Blocks until every prompt is done; the step's figures, named as RolloutMetrics with the prefix
  // "eval/", "eval/kl" (ReferenceKl) where groups ask the reference, and "eval/groups" and
  // "eval/dropped_groups": prompts that no verifier scored are left out of every mean, and counted. Called by the training thread. DEADLINE_EXCEEDED as
  // RolloutCoordinator::Next; ABORTED: nothing could be scored; what Stop was given.
  absl::StatusOr<std::map<std::string, double>> Run(uint64_t step) ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes Run return `status`, now and later.
  void Stop(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);

  size_t prompts() const { return prompts_.size(); }

 private:
  void OnGroup(uint64_t step, v1::Group group) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status AwaitAll() ABSL_LOCKS_EXCLUDED(mutex_);

  const EvaluatorOptions options_;
  const std::vector<v1::PromptRow> prompts_;
  GroupRunner* const runner_;
  Ledger* const ledger_;
  Clock* const clock_;

  absl::Mutex mutex_;
  uint64_t step_ ABSL_GUARDED_BY(mutex_) =
      0;  // being evaluated; groups of another one come too late
  size_t ended_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::Group> scored_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_progress_ ABSL_GUARDED_BY(mutex_);
  absl::Status stopped_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
