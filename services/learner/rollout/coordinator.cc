#include "services/learner/rollout/coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/learner/rollout/batch_builder.h"

namespace rollcall::learner {

RolloutCoordinator::RolloutCoordinator(CoordinatorOptions options, PromptFn prompts,
                                       GroupRunner* runner, const PublishedVersions* versions,
                                       Ledger* ledger, Clock* clock)
    : options_(std::move(options)),
      prompts_(std::move(prompts)),
      runner_(runner),
      versions_(versions),
      ledger_(ledger),
      clock_(clock),
      issued_through_(options_.trained_steps),
      reusable_(options_.reusable),
      accounts_(options_.first_group_id, options_.settled),
      trained_steps_(options_.trained_steps),
      last_progress_(clock->Now()) {}

uint64_t RolloutCoordinator::StepOf(uint64_t group_id) const {
  return options_.trained_steps + 1 +
         (group_id - options_.first_group_id) / options_.prompts_per_step;
}

uint64_t RolloutCoordinator::FirstGroupOf(uint64_t step) const {
  return options_.first_group_id + (step - options_.trained_steps - 1) * options_.prompts_per_step;
}

absl::Status RolloutCoordinator::IssueThrough(uint64_t step) {
  while (issued_through_ < std::min(step, options_.total_steps)) {
    const uint64_t first = FirstGroupOf(issued_through_ + 1);
    for (uint64_t id = first; id < first + options_.prompts_per_step; ++id) {
      ROLLCALL_RETURN_IF_ERROR(Annotate(IssueOne(id), absl::StrCat("group ", id)));
    }
    ++issued_through_;
  }
  return absl::OkStatus();
}

absl::Status RolloutCoordinator::IssueOne(uint64_t group_id) {
  ROLLCALL_ASSIGN_OR_RETURN(PromptDraw draw, prompts_(group_id));
  {
    absl::MutexLock lock(&mutex_);
    ROLLCALL_RETURN_IF_ERROR(accounts_.Issue(group_id));
    ++buckets_[StepOf(group_id)].issued;
  }
  GroupSpec spec = options_.group;
  spec.group_id = group_id;
  spec.purpose = v1::RANDOM_PURPOSE_ROLLOUT;
  spec.prompt = std::move(draw.prompt);
  const double issued = absl::ToDoubleSeconds(clock_->Now() - absl::UnixEpoch());

  Observe();
  if (!draw.too_long.empty()) {
    v1::Group group;
    group.set_group_id(group_id);
    group.set_purpose(spec.purpose);
    *group.mutable_prompt() = spec.prompt;
    group.set_issued_time(issued);
    group.mutable_outcome()->mutable_dropped()->set_reason(std::string(kPromptTooLong));
    group.mutable_outcome()->mutable_dropped()->set_detail(draw.too_long);
    OnGroup(std::move(group));
    return absl::OkStatus();
  }
  if (auto reused = reusable_.extract(group_id); !reused.empty()) {
    OnGroup(std::move(reused.mapped()));
    return absl::OkStatus();
  }
  runner_->Submit(std::move(spec), [this, issued](v1::Group group) {
    group.set_issued_time(issued);
    OnGroup(std::move(group));
  });
  return absl::OkStatus();
}

void RolloutCoordinator::OnGroup(v1::Group group) {
  const bool reused = group.finished_time() > 0;
  const bool shutdown = group.outcome().dropped().reason() == kShutdown;
  if (!reused) {
    group.set_run_id(options_.run_id);
    group.set_lineage(options_.lineage);
    group.set_finished_time(absl::ToDoubleSeconds(clock_->Now() - absl::UnixEpoch()));
    // What a shutdown interrupts is issued again by the next lineage: no news for the ledger.
    if (ledger_ != nullptr && !shutdown) ledger_->RecordGroup(group);
  }
  if (group.outcome().has_dropped() && !shutdown) {
    LogWarning("group dropped", {{"group", group.group_id()},
                                 {"reason", group.outcome().dropped().reason()},
                                 {"detail", group.outcome().dropped().detail()}});
  }
  Book(std::move(group));
  Observe();
}

void RolloutCoordinator::Observe() {
  if (options_.observe_counts) options_.observe_counts(counts());
}

void RolloutCoordinator::Book(v1::Group group) {
  absl::MutexLock lock(&mutex_);
  Bucket& bucket = buckets_[StepOf(group.group_id())];
  ++bucket.ended;
  last_progress_ = clock_->Now();
  if (!group.outcome().has_dropped()) {
    bucket.finished.push_back(std::move(group));
    return;
  }
  const v1::Dropped& dropped = group.outcome().dropped();
  stopped_.Update(accounts_.Drop(group.group_id(), dropped.reason()));
  bucket.drops.push_back(
      absl::StrCat("group ", group.group_id(), ": ", dropped.reason(), ": ", dropped.detail()));
}

bool RolloutCoordinator::Complete(uint64_t step) const {
  const auto found = buckets_.find(step);
  return found != buckets_.end() && found->second.issued == options_.prompts_per_step &&
         found->second.ended == found->second.issued;
}

absl::Status RolloutCoordinator::AwaitStep(uint64_t step) {
  const absl::Time entered = clock_->Now();
  const auto ready = [this, step]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !stopped_.ok() || Complete(step);
  };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      // Time spent training or paused is no stall: groups may have finished before this call began.
      const absl::Time deadline = std::max(last_progress_, entered) + options_.stall_timeout;
      if (clock_->AwaitWithDeadline(&mutex_, absl::Condition(&ready), deadline)) return stopped_;
      if (std::max(last_progress_, entered) + options_.stall_timeout > clock_->Now()) continue;
    }
    return absl::DeadlineExceededError(absl::StrCat("step ", step, ": no group finished for ",
                                                    absl::FormatDuration(options_.stall_timeout),
                                                    ": ", runner_->DescribeWaiting()));
  }
}

absl::StatusOr<TrainBatch> RolloutCoordinator::Next(uint64_t step) {
  uint64_t trained = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!stopped_.ok()) return stopped_;
    trained = trained_steps_;
  }
  if (step != trained + 1 || step > options_.total_steps) {
    return absl::InternalError(absl::StrCat("step ", step, " was asked for after ", trained, " of ",
                                            options_.total_steps));
  }
  ROLLCALL_RETURN_IF_ERROR(IssueThrough(trained + 1 + options_.max_staleness));
  ROLLCALL_RETURN_IF_ERROR(AwaitStep(step));

  const std::optional<v1::PolicyVersion> version = versions_->Find(step - 1);
  if (!version) {
    return absl::InternalError(absl::StrCat("step ", step - 1, " was never published"));
  }
  std::vector<v1::Group> groups;
  size_t dropped = 0;
  std::string drops;
  {
    absl::MutexLock lock(&mutex_);
    const Bucket& bucket = buckets_[step];
    groups = bucket.finished;
    dropped = bucket.drops.size();
    drops = absl::StrJoin(bucket.drops.begin(), bucket.drops.begin() + std::min<size_t>(dropped, 3),
                          "; ");
  }
  if (groups.empty()) {
    return absl::AbortedError(
        absl::StrCat("step ", step, ": all ", dropped, " groups were dropped, such as ", drops));
  }
  ROLLCALL_ASSIGN_OR_RETURN(TrainBatch batch, BuildBatch(std::move(groups), *version));
  batch.metrics["rollout/dropped_groups"] = static_cast<double>(dropped);
  return batch;
}

absl::Status RolloutCoordinator::StepTrained(uint64_t step) {
  std::vector<uint64_t> trained;
  {
    absl::MutexLock lock(&mutex_);
    if (step != trained_steps_ + 1) {
      return absl::InternalError(
          absl::StrCat("step ", step, " was trained after step ", trained_steps_));
    }
    for (const v1::Group& group : buckets_[step].finished) {
      ROLLCALL_RETURN_IF_ERROR(accounts_.Train(group.group_id()));
      trained.push_back(group.group_id());
    }
    buckets_.erase(step);
    trained_steps_ = step;
    ROLLCALL_RETURN_IF_ERROR(accounts_.AdvanceHorizon(FirstGroupOf(step + 1)));
    ROLLCALL_RETURN_IF_ERROR(accounts_.CheckBalance());
  }
  Observe();
  if (ledger_ != nullptr) {
    for (const uint64_t id : trained) ledger_->RecordTrained(id, step);
  }
  return IssueThrough(step + 1 + options_.max_staleness);
}

void RolloutCoordinator::Stop(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  stopped_.Update(status);
}

v1::RolloutCounts RolloutCoordinator::counts() const {
  absl::MutexLock lock(&mutex_);
  return accounts_.counts();
}

v1::RolloutCounts RolloutCoordinator::settled() const {
  absl::MutexLock lock(&mutex_);
  return accounts_.settled();
}

uint64_t RolloutCoordinator::next_group_id() const {
  absl::MutexLock lock(&mutex_);
  return FirstGroupOf(trained_steps_ + 1);
}

}  // namespace rollcall::learner
