#pragma once

#include <string>

#include "common/metrics/registry.h"
#include "rollcall/v1/verifier.pb.h"

namespace rollcall::reward {

// How many samples ended how.
struct OutcomeMetrics {
  // `name` counts samples by `labels` and the label `outcome`: score, abstain, retry, error.
  OutcomeMetrics(metrics::Registry& registry, const std::string& name, const std::string& help,
                 metrics::Labels labels);

  void Count(const v1::SampleResult& result);

  metrics::Counter& scores;
  metrics::Counter& abstentions;
  metrics::Counter& retries;
  metrics::Counter& errors;
};

// One verifier, by the label `verifier`.
struct VerifierMetrics {
  VerifierMetrics(metrics::Registry& registry, const std::string& verifier);

  metrics::Histogram& seconds;  // from the start of its scoring to its results, tries included
  OutcomeMetrics outcomes;
  metrics::Counter& failed_calls;  // remote calls that ended in an RPC error
  metrics::Counter& repeated;      // remote calls that were further tries
  metrics::Counter& invalid;       // answers that broke the contract
};

// The reward service.
struct RewardMetrics {
  explicit RewardMetrics(metrics::Registry& registry);

  OutcomeMetrics outcomes;
  metrics::Counter& requests;
  metrics::Counter& refused;    // invalid, or more than the service holds
  metrics::Counter& repeated;   // answered from memory
  metrics::Counter& cancelled;  // the caller went away
  metrics::Gauge& pending;      // requests under way
  metrics::Histogram& seconds;  // of a request
  metrics::Gauge& cache_bytes;
};

}  // namespace rollcall::reward
