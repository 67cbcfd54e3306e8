#include "services/learner/rollout/coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/learner/rollout/batch_builder.h"
#include "services/learner/rollout/group_filter.h"

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
      reusable_(options_.reusable),
      accounts_(options_.first_group_id, options_.settled),
      trained_steps_(options_.trained_steps),
      horizon_(options_.first_group_id),
      last_progress_(clock->Now()) {}

RolloutCoordinator::Span RolloutCoordinator::NextSpan() const {
  Span span{.end = horizon_};
  for (const auto& [id, entry] : entries_) {
    if (span.taken == options_.prompts_per_step) break;
    span.end = id + 1;
    if (entry.state == Entry::State::kFiltered) {
      ++span.filtered;
    } else {
      ++span.taken;
    }
    span.settled = span.settled && entry.state != Entry::State::kInFlight;
  }
  return span;
}

bool RolloutCoordinator::Complete() const {
  const Span span = NextSpan();
  return span.taken == options_.prompts_per_step && span.settled;
}

bool RolloutCoordinator::AtBound(const Span& span) const {
  return span.taken < options_.prompts_per_step &&
         span.end - horizon_ >= uint64_t{options_.max_sampling_rounds} * options_.prompts_per_step;
}

bool RolloutCoordinator::Exhausted() const {
  const Span span = NextSpan();
  return span.settled && AtBound(span);
}

bool RolloutCoordinator::MayIssue() const {
  const uint64_t through =
      std::min(trained_steps_ + 1 + options_.max_staleness, options_.total_steps);
  const uint64_t wanted = (through - trained_steps_) * options_.prompts_per_step;
  return entries_.size() - filtered_ahead_ < wanted && !AtBound(NextSpan());
}

absl::Status RolloutCoordinator::IssueAllowed() {
  while (true) {
    uint64_t id = 0;
    {
      absl::MutexLock lock(&mutex_);
      if (!stopped_.ok() || !MayIssue()) return absl::OkStatus();
      id = accounts_.next_group_id();
    }
    ROLLCALL_RETURN_IF_ERROR(Annotate(IssueOne(id), absl::StrCat("group ", id)));
  }
}

absl::Status RolloutCoordinator::IssueOne(uint64_t group_id) {
  ROLLCALL_ASSIGN_OR_RETURN(PromptDraw draw, prompts_(group_id));
  {
    absl::MutexLock lock(&mutex_);
    ROLLCALL_RETURN_IF_ERROR(accounts_.Issue(group_id));
    entries_[group_id];
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
  Submit(std::move(spec), issued);
  return absl::OkStatus();
}

void RolloutCoordinator::Submit(GroupSpec spec, double issued) {
  if (!options_.greedy_baseline) {
    runner_->Submit(std::move(spec), [this, issued](v1::Group group) {
      group.set_issued_time(issued);
      OnGroup(std::move(group));
    });
    return;
  }
  GroupSpec greedy = spec;
  greedy.num_samples = 1;
  greedy.min_valid_samples = 1;
  greedy.with_reference = false;
  greedy.sampling.set_temperature(0);
  const auto submit = [this, issued](GroupSpec part, bool is_greedy) {
    runner_->Submit(std::move(part), [this, issued, is_greedy](v1::Group group) {
      group.set_issued_time(issued);
      OnPart(std::move(group), is_greedy);
    });
  };
  submit(std::move(spec), false);
  submit(std::move(greedy), true);
}

void RolloutCoordinator::OnPart(v1::Group part, bool greedy) {
  v1::Group whole;
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = entries_[part.group_id()];
    (greedy ? entry.greedy : entry.samples) = std::move(part);
    if (!entry.samples.has_value() || !entry.greedy.has_value()) return;
    whole = *std::move(entry.samples);
    const v1::GroupOutcome& outcome = entry.greedy->outcome();
    if (outcome.has_dropped() && !whole.outcome().has_dropped()) {
      v1::Dropped* dropped = whole.mutable_outcome()->mutable_dropped();
      dropped->set_reason(outcome.dropped().reason());
      dropped->set_detail(absl::StrCat("the greedy completion: ", outcome.dropped().detail()));
    }
    if (!entry.greedy->trajectories().empty()) {
      *whole.mutable_greedy() = std::move(*entry.greedy->mutable_trajectories(0));
    }
    entry.samples.reset();
    entry.greedy.reset();
  }
  OnGroup(std::move(whole));
}

void RolloutCoordinator::OnGroup(v1::Group group) {
  const bool reused = group.finished_time() > 0;
  const bool shutdown = group.outcome().dropped().reason() == kShutdown;
  if (options_.dynamic_sampling && !group.outcome().has_dropped() &&
      HasZeroVariance(group, options_.filter_metric)) {
    group.mutable_outcome()->mutable_filtered()->set_filter(kZeroVariance);
  }
  if (!reused) {
    group.set_run_id(options_.run_id);
    group.set_lineage(options_.lineage);
    group.set_finished_time(absl::ToDoubleSeconds(clock_->Now() - absl::UnixEpoch()));
    // What a shutdown interrupts is issued again by the next lineage: no news for the ledger.
    if (ledger_ != nullptr && !shutdown) ledger_->RecordGroup(group);
  } else if (ledger_ != nullptr && group.outcome().has_filtered()) {
    ledger_->RecordFiltered(group.group_id(), kZeroVariance);
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
  const uint64_t id = group.group_id();
  Entry& entry = entries_[id];
  last_progress_ = clock_->Now();
  if (group.outcome().has_filtered()) {
    stopped_.Update(accounts_.Filter(id));
    entry.state = Entry::State::kFiltered;
    ++filtered_ahead_;
  } else if (group.outcome().has_dropped()) {
    const v1::Dropped& dropped = group.outcome().dropped();
    stopped_.Update(accounts_.Drop(id, dropped.reason()));
    entry.state = Entry::State::kDropped;
    entry.drop = absl::StrCat("group ", id, ": ", dropped.reason(), ": ", dropped.detail());
  } else {
    entry.state = Entry::State::kFinished;
    entry.group = std::move(group);
  }
}

absl::Status RolloutCoordinator::AwaitStep(uint64_t step) {
  const absl::Time entered = clock_->Now();
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !stopped_.ok() || Complete() || Exhausted() || MayIssue();
  };
  while (true) {
    ROLLCALL_RETURN_IF_ERROR(IssueAllowed());
    {
      absl::MutexLock lock(&mutex_);
      // Time spent training or paused is no stall: groups may have finished before this call began.
      const absl::Time deadline = std::max(last_progress_, entered) + options_.stall_timeout;
      if (clock_->AwaitWithDeadline(&mutex_, absl::Condition(&ready), deadline)) {
        if (!stopped_.ok() || Complete()) return stopped_;
        if (Exhausted()) return SamplingBoundReached(step);
        continue;
      }
      if (std::max(last_progress_, entered) + options_.stall_timeout > clock_->Now()) continue;
    }
    return absl::DeadlineExceededError(absl::StrCat("step ", step, ": no group finished for ",
                                                    absl::FormatDuration(options_.stall_timeout),
                                                    ": ", runner_->DescribeWaiting()));
  }
}

absl::Status RolloutCoordinator::SamplingBoundReached(uint64_t step) const {
  const Span span = NextSpan();
  return absl::AbortedError(absl::StrCat(
      "step ", step, ": dynamic sampling issued ", span.end - horizon_, " groups (",
      options_.max_sampling_rounds, " rounds of ", options_.prompts_per_step,
      ", algorithm.max_sampling_rounds), and in ", span.filtered,
      " of them all samples had the same ",
      options_.filter_metric.empty() ? std::string("reward")
                                     : absl::StrCat("score of ", options_.filter_metric),
      ": the prompts are too easy or too hard for this policy, or the reward never varies"));
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
  ROLLCALL_RETURN_IF_ERROR(AwaitStep(step));

  const std::optional<v1::PolicyVersion> version = versions_->Find(step - 1);
  if (!version) {
    return absl::InternalError(absl::StrCat("step ", step - 1, " was never published"));
  }
  std::vector<v1::Group> groups;
  std::vector<std::string> drops;
  Span span;
  {
    absl::MutexLock lock(&mutex_);
    span = NextSpan();
    for (auto it = entries_.begin(); it != entries_.lower_bound(span.end); ++it) {
      if (it->second.state == Entry::State::kFinished) groups.push_back(it->second.group);
      if (it->second.state == Entry::State::kDropped) drops.push_back(it->second.drop);
    }
  }
  if (groups.empty()) {
    return absl::AbortedError(absl::StrCat(
        "step ", step, ": all ", drops.size(), " groups were dropped, such as ",
        absl::StrJoin(drops.begin(), drops.begin() + std::min<size_t>(drops.size(), 3), "; ")));
  }
  ROLLCALL_ASSIGN_OR_RETURN(TrainBatch batch, BuildBatch(std::move(groups), *version));
  batch.metrics["rollout/dropped_groups"] = static_cast<double>(drops.size());
  if (options_.dynamic_sampling) {
    batch.metrics["rollout/filtered_groups"] = static_cast<double>(span.filtered);
  }
  return batch;
}

absl::Status RolloutCoordinator::StepTrained(uint64_t step) {
  std::vector<uint64_t> trained;
  {
    absl::MutexLock lock(&mutex_);
    const Span span = NextSpan();
    if (step != trained_steps_ + 1 || !Complete()) {
      return absl::InternalError(
          absl::StrCat("step ", step, " was trained after step ", trained_steps_));
    }
    const auto end = entries_.lower_bound(span.end);
    for (auto it = entries_.begin(); it != end; it = entries_.erase(it)) {
      if (it->second.state != Entry::State::kFinished) continue;
      ROLLCALL_RETURN_IF_ERROR(accounts_.Train(it->first));
      trained.push_back(it->first);
    }
    filtered_ahead_ -= span.filtered;
    horizon_ = span.end;
    trained_steps_ = step;
    ROLLCALL_RETURN_IF_ERROR(accounts_.AdvanceHorizon(horizon_));
    ROLLCALL_RETURN_IF_ERROR(accounts_.CheckBalance());
  }
  Observe();
  if (ledger_ != nullptr) {
    for (const uint64_t id : trained) ledger_->RecordTrained(id, step);
  }
  return IssueAllowed();
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
  return horizon_;
}

}  // namespace rollcall::learner
