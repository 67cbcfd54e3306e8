#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "rollcall/v1/learner.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/publish/published_versions.h"
#include "services/learner/rollout/group_accounts.h"
#include "services/learner/rollout/group_runner.h"
#include "services/learner/rollout/group_spec.h"
#include "services/learner/rollout/ledger.h"

namespace rollcall::learner {

// The prompt of one ordinal, or why that ordinal has none.
struct PromptDraw {
  v1::PromptRow prompt;
  // Not empty: the group is dropped(prompt_too_long) with this detail.
  std::string too_long;
};

// A pure function of the ordinal; called by the training thread. OUT_OF_RANGE: the data is used up.
using PromptFn = std::function<absl::StatusOr<PromptDraw>(uint64_t group_id)>;

struct CoordinatorOptions {
  std::string run_id;
  uint64_t lineage = 1;
  // What every group has in common; ids and prompts are filled per group.
  GroupSpec group;
  uint64_t total_steps = 1;
  uint32_t prompts_per_step = 1;
  uint32_t max_staleness = 0;
  absl::Duration stall_timeout = absl::Minutes(10);
  // Dynamic sampling: groups without variance (group_filter.h) are filtered and others issued in
  // their place, at most max_sampling_rounds * prompts_per_step groups a step.
  bool dynamic_sampling = false;
  std::string filter_metric;
  uint32_t max_sampling_rounds = 10;
  // Also sample each prompt greedily (v1::Group.greedy).
  bool greedy_baseline = false;
  // Where it starts: steps already trained, the first group of the next step, the books of those
  // before.
  uint64_t trained_steps = 0;
  uint64_t first_group_id = 0;
  v1::RolloutCounts settled;
  // Finished groups that need not be made again (LoadReusableGroups).
  std::map<uint64_t, v1::Group> reusable;
  // Told the books whenever they changed; on the training thread or the runner's, without a lock.
  // May be null.
  std::function<void(const v1::RolloutCounts&)> observe_counts;
};

// The BatchSource of online training. Group ids are ordinals. A step's batch is the next
// prompts_per_step groups in their order, filtered ones not counted; a group is issued once its
// step can be at most trained steps + 1 + max_staleness, so that 0 is synchronous. Which groups
// make up a batch thus never depends on timing or on how many generators there are, and without
// dynamic sampling not on who failed when either.
//
// With dynamic sampling a filtered group lets the next id be issued at once. That is id k if and
// only if fewer than the wanted number of groups below k survive the filter, in whatever order they
// end: the set of issued ids is a function of the groups' contents.
//
// A dropped group leaves its batch smaller: drawing a substitute would make later groups' ids, and
// with them every draw after a passing fault, depend on the fault. Losses are normalised over what
// is there. A batch without any group left is an error, after every drop was recorded.
//
// Next and StepTrained are called by the training thread, the rest by any.
class RolloutCoordinator final : public BatchSource {
 public:
  // All pointers must outlive it; the runner must be stopped before it is destroyed. `ledger` may
  // be null.
  RolloutCoordinator(CoordinatorOptions options, PromptFn prompts, GroupRunner* runner,
                     const PublishedVersions* versions, Ledger* ledger,
                     Clock* clock = Clock::Real());

  // DEADLINE_EXCEEDED: no group finished for stall_timeout; the message says what is waited for.
  // ABORTED: every group of the step was dropped, or dynamic sampling reached its bound. Otherwise
  // what Stop was given, or a prompt's error.
  absl::StatusOr<TrainBatch> Next(uint64_t step) override ABSL_LOCKS_EXCLUDED(mutex_);

  // Step `step` was trained and its weights published: books its groups and issues the next ones.
  absl::Status StepTrained(uint64_t step) ABSL_LOCKS_EXCLUDED(mutex_);

  // Makes Next return `status`, now and later; the first one stays.
  void Stop(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);

  v1::RolloutCounts counts() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The books as of the last trained step: what a checkpoint stores, with the first group it does
  // not cover.
  v1::RolloutCounts settled() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t next_group_id() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A group that was issued and not yet trained.
  struct Entry {
    enum class State { kInFlight, kFinished, kFiltered, kDropped };
    State state = State::kInFlight;
    v1::Group group;   // kFinished
    std::string drop;  // kDropped: "group 7: verifier_failed: …"
    // With greedy_baseline: whichever of the two parts ended first.
    std::optional<v1::Group> samples, greedy;
  };
  // The ids that make up the next step: from horizon_ on, as far as they are issued.
  struct Span {
    uint64_t end = 0;       // one past the last
    uint32_t taken = 0;     // not filtered, at most prompts_per_step
    uint64_t filtered = 0;  // below `end`
    bool settled = true;    // none of them is in flight
  };

  Span NextSpan() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool Complete() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // All that may be issued for the next step was, and it is not enough; settled, too.
  bool AtBound(const Span& span) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool Exhausted() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Whether another group may be in flight or finished.
  bool MayIssue() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  absl::Status IssueAllowed() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status IssueOne(uint64_t group_id);
  void Submit(GroupSpec spec, double issued);
  void OnPart(v1::Group part, bool greedy) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnGroup(v1::Group group);
  void Book(v1::Group group) ABSL_LOCKS_EXCLUDED(mutex_);
  void Observe() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status AwaitStep(uint64_t step) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status SamplingBoundReached(uint64_t step) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const CoordinatorOptions options_;
  const PromptFn prompts_;
  GroupRunner* const runner_;
  const PublishedVersions* const versions_;
  Ledger* const ledger_;
  Clock* const clock_;

  std::map<uint64_t, v1::Group> reusable_;  // the training thread only

  mutable absl::Mutex mutex_;
  GroupAccounts accounts_ ABSL_GUARDED_BY(mutex_);
  uint64_t trained_steps_ ABSL_GUARDED_BY(mutex_);
  uint64_t horizon_ ABSL_GUARDED_BY(mutex_);                   // first group of the next step
  std::map<uint64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);  // from horizon_ on
  uint64_t filtered_ahead_ ABSL_GUARDED_BY(mutex_) = 0;        // of entries_
  absl::Time last_progress_ ABSL_GUARDED_BY(mutex_);
  absl::Status stopped_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
