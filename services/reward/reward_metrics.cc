#include "services/reward/reward_metrics.h"

#include <utility>

namespace rollcall::reward {
namespace {

metrics::Labels With(metrics::Labels labels, const std::string& outcome) {
  labels["outcome"] = outcome;
  return labels;
}

}  // namespace

OutcomeMetrics::OutcomeMetrics(metrics::Registry& registry, const std::string& name,
                               const std::string& help, metrics::Labels labels)
    : scores(registry.AddCounter(name, help, With(labels, "score"))),
      abstentions(registry.AddCounter(name, help, With(labels, "abstain"))),
      retries(registry.AddCounter(name, help, With(labels, "retry"))),
      errors(registry.AddCounter(name, help, With(std::move(labels), "error"))) {}

void OutcomeMetrics::Count(const v1::SampleResult& result) {
  switch (result.outcome_case()) {
    case v1::SampleResult::kScore:
      return scores.Increment();
    case v1::SampleResult::kAbstain:
      return abstentions.Increment();
    case v1::SampleResult::kRetry:
      return retries.Increment();
    case v1::SampleResult::kError:
    case v1::SampleResult::OUTCOME_NOT_SET:
      return errors.Increment();
  }
}

VerifierMetrics::VerifierMetrics(metrics::Registry& registry, const std::string& verifier)
    : seconds(registry.AddHistogram("rollcall_reward_verifier_seconds",
                                    "Time of a verifier for one request, tries included.",
                                    metrics::LatencyBuckets(), {{"verifier", verifier}})),
      outcomes(registry, "rollcall_reward_verifier_samples_total",
               "Samples by what a verifier said of them.", {{"verifier", verifier}}),
      failed_calls(registry.AddCounter("rollcall_reward_verifier_failed_calls_total",
                                       "Calls of a remote verifier that ended in an RPC error.",
                                       {{"verifier", verifier}})),
      repeated(registry.AddCounter("rollcall_reward_verifier_repeated_calls_total",
                                   "Calls of a remote verifier that were further tries.",
                                   {{"verifier", verifier}})),
      invalid(registry.AddCounter("rollcall_reward_verifier_invalid_answers_total",
                                  "Answers of a remote verifier that broke the contract.",
                                  {{"verifier", verifier}})) {}

RewardMetrics::RewardMetrics(metrics::Registry& registry)
    : outcomes(registry, "rollcall_reward_samples_total", "Samples by their composed outcome.", {}),
      requests(registry.AddCounter("rollcall_reward_requests_total", "Score requests received.")),
      refused(registry.AddCounter("rollcall_reward_refused_requests_total",
                                  "Score requests that were invalid or past what the service "
                                  "holds.")),
      repeated(registry.AddCounter("rollcall_reward_repeated_requests_total",
                                   "Score requests answered from memory by idempotency key.")),
      cancelled(registry.AddCounter("rollcall_reward_cancelled_requests_total",
                                    "Score requests whose caller went away.")),
      pending(registry.AddGauge("rollcall_reward_pending_requests", "Score requests under way.")),
      seconds(registry.AddHistogram("rollcall_reward_request_seconds", "Time of a Score request.",
                                    metrics::LatencyBuckets())),
      cache_bytes(registry.AddGauge("rollcall_reward_cache_bytes",
                                    "Answers kept for repeated requests.")) {}

}  // namespace rollcall::reward
