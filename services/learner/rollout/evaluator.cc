#include "services/learner/rollout/evaluator.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "services/learner/rollout/batch_builder.h"

namespace rollcall::learner {

Evaluator::Evaluator(EvaluatorOptions options, std::vector<v1::PromptRow> prompts,
                     GroupRunner* runner, Ledger* ledger, Clock* clock)
    : options_(std::move(options)),
      prompts_(std::move(prompts)),
      runner_(runner),
      ledger_(ledger),
      clock_(clock) {}

absl::StatusOr<std::map<std::string, double>> Evaluator::Run(uint64_t step) {
  {
    absl::MutexLock lock(&mutex_);
    step_ = step;
    ended_ = 0;
    scored_.clear();
    last_progress_ = clock_->Now();
  }
  for (size_t i = 0; i < prompts_.size(); ++i) {
    GroupSpec spec = options_.group;
    spec.group_id = step * prompts_.size() + i;
    spec.purpose = v1::RANDOM_PURPOSE_EVALUATION;
    spec.prompt = prompts_[i];
    spec.min_valid_samples = 1;
    const double issued = absl::ToDoubleSeconds(clock_->Now() - absl::UnixEpoch());
    runner_->Submit(std::move(spec), [this, step, issued](v1::Group group) {
      group.set_issued_time(issued);
      OnGroup(step, std::move(group));
    });
  }
  ROLLCALL_RETURN_IF_ERROR(AwaitAll());

  std::vector<v1::Group> scored;
  {
    absl::MutexLock lock(&mutex_);
    scored = std::move(scored_);
    scored_.clear();
  }
  if (scored.empty()) {
    return absl::AbortedError(absl::StrCat("evaluation at step ", step, ": none of ",
                                           prompts_.size(), " prompts could be scored"));
  }
  // Sums of floating-point numbers depend on their order; this one does not depend on who was
  // first.
  std::sort(scored.begin(), scored.end(),
            [](const v1::Group& a, const v1::Group& b) { return a.group_id() < b.group_id(); });
  std::map<std::string, double> metrics = RolloutMetrics(scored, "eval/");
  if (const std::optional<double> kl = ReferenceKl(scored)) metrics["eval/kl"] = *kl;
  metrics["eval/groups"] = static_cast<double>(scored.size());
  metrics["eval/dropped_groups"] = static_cast<double>(prompts_.size() - scored.size());
  return metrics;
}

void Evaluator::OnGroup(uint64_t step, v1::Group group) {
  group.set_run_id(options_.run_id);
  group.set_lineage(options_.lineage);
  group.set_finished_time(absl::ToDoubleSeconds(clock_->Now() - absl::UnixEpoch()));
  const bool dropped = group.outcome().has_dropped();
  if (ledger_ != nullptr && group.outcome().dropped().reason() != kShutdown) {
    ledger_->RecordGroup(group);
  }
  if (dropped) {
    LogWarning("evaluation group dropped", {{"group", group.group_id()},
                                            {"reason", group.outcome().dropped().reason()},
                                            {"detail", group.outcome().dropped().detail()}});
  }
  absl::MutexLock lock(&mutex_);
  if (step != step_) return;
  ++ended_;
  last_progress_ = clock_->Now();
  if (!dropped) scored_.push_back(std::move(group));
}

absl::Status Evaluator::AwaitAll() {
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !stopped_.ok() || ended_ == prompts_.size();
  };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      const absl::Time deadline = last_progress_ + options_.stall_timeout;
      if (clock_->AwaitWithDeadline(&mutex_, absl::Condition(&ready), deadline)) return stopped_;
      if (last_progress_ + options_.stall_timeout > clock_->Now()) continue;
    }
    return absl::DeadlineExceededError(absl::StrCat("evaluation: no group finished for ",
                                                    absl::FormatDuration(options_.stall_timeout),
                                                    ": ", runner_->DescribeWaiting()));
  }
}

void Evaluator::Stop(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  stopped_.Update(status);
}

}  // namespace rollcall::learner
