#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "common/metrics/registry.h"

namespace rollcall::batching {

// What a service that scores batches exports, with `service` in every name: "reference" gives
// rollcall_reference_batches_total.
struct BatchMetrics {
  BatchMetrics(metrics::Registry& registry, const std::string& service)
      : requests(registry.AddCounter(absl::StrCat("rollcall_", service, "_requests_total"),
                                     "Score calls.")),
        refused(registry.AddCounter(absl::StrCat("rollcall_", service, "_refused_total"),
                                    "Score calls refused before they were queued.")),
        batches(registry.AddCounter(absl::StrCat("rollcall_", service, "_batches_total"),
                                    "Forward passes.")),
        failed_batches(
            registry.AddCounter(absl::StrCat("rollcall_", service, "_failed_batches_total"),
                                "Forward passes that failed.")),
        tokens(registry.AddCounter(absl::StrCat("rollcall_", service, "_tokens_total"),
                                   "Tokens that went through the model.")),
        waiting_sequences(
            registry.AddGauge(absl::StrCat("rollcall_", service, "_waiting_sequences"),
                              "Sequences that wait for a forward pass.")),
        batch_seconds(registry.AddHistogram(absl::StrCat("rollcall_", service, "_batch_seconds"),
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

}  // namespace rollcall::batching
