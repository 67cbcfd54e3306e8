#pragma once

#include "common/metrics/registry.h"

namespace rollcall::reference {

// What the reference service exports.
struct ReferenceMetrics {
  explicit ReferenceMetrics(metrics::Registry& registry)
      : requests(registry.AddCounter("rollcall_reference_requests_total", "Score calls.")),
        refused(registry.AddCounter("rollcall_reference_refused_total",
                                    "Score calls refused before they were queued.")),
        batches(registry.AddCounter("rollcall_reference_batches_total", "Forward passes.")),
        failed_batches(registry.AddCounter("rollcall_reference_failed_batches_total",
                                           "Forward passes that failed.")),
        tokens(registry.AddCounter("rollcall_reference_tokens_total",
                                   "Tokens that went through the model.")),
        waiting_sequences(registry.AddGauge("rollcall_reference_waiting_sequences",
                                            "Sequences that wait for a forward pass.")),
        batch_seconds(registry.AddHistogram("rollcall_reference_batch_seconds",
                                            "Duration of a forward pass.",
                                            metrics::LatencyBuckets())) {}

  metrics::Counter& requests;
  metrics::Counter& refused;
  metrics::Counter& batches;
  metrics::Counter& failed_batches;
  metrics::Counter& tokens;
  metrics::Gauge& waiting_sequences;
  metrics::Histogram& batch_seconds;
};

}  // namespace rollcall::reference
