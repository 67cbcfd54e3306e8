#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "common/metrics/registry.h"
#include "rollcall/v1/learner.pb.h"

namespace rollcall::learner {

// What the learner exports.
struct LearnerMetrics {
  explicit LearnerMetrics(metrics::Registry& in_registry)
      : registry(in_registry),
        step(registry.AddGauge("rollcall_learner_step", "Optimizer steps taken.")),
        run_over(registry.AddGauge("rollcall_learner_run_over",
                                   "1 once the run is over and the learner only answers, else 0.")),
        lineage(registry.AddGauge("rollcall_learner_lineage", "Start of this run's learner.")),
        groups_issued(registry.AddGauge("rollcall_learner_groups_issued", "Groups issued.")),
        groups_trained(Ended("trained")),
        groups_filtered(Ended("filtered")),
        groups_in_flight(Ended("in_flight")),
        generators_serving(registry.AddGauge("rollcall_learner_generators_serving",
                                             "Generators that serve the current version.")),
        trained_parameters(registry.AddGauge(
            "rollcall_learner_trained_parameters",
            "Parameters that are trained: the model's, or those of its adapter.")),
        optimizer_bytes(registry.AddGauge("rollcall_learner_optimizer_bytes",
                                          "Memory of the optimizer's state.")),
        data_rows_used(Rows("used")),
        data_rows_skipped(Rows("skipped")),
        data_rows_dropped(Rows("dropped")),
        data_rows_truncated(Rows("truncated")),
        step_seconds(registry.AddHistogram("rollcall_learner_step_seconds",
                                           "Duration of a step, waiting for rollouts included.",
                                           metrics::ExponentialBuckets(0.01, 2, 18))),
        checkpoint_seconds(registry.AddHistogram("rollcall_learner_checkpoint_seconds",
                                                 "Duration of a checkpoint.",
                                                 metrics::ExponentialBuckets(0.01, 2, 16))),
        weight_sync_seconds(registry.AddHistogram("rollcall_learner_weight_sync_seconds",
                                                  "Time to bring a version to one generator.",
                                                  metrics::ExponentialBuckets(0.01, 2, 16))),
        weight_sync_bytes(registry.AddCounter("rollcall_learner_weight_sync_bytes_total",
                                              "Bytes of the versions brought to generators.")),
        last_step_time(registry.AddGauge("rollcall_learner_last_step_timestamp_seconds",
                                         "Unix time of the last step; at first of the start.")),
        last_checkpoint_time(
            registry.AddGauge("rollcall_learner_last_checkpoint_timestamp_seconds",
                              "Unix time of the last checkpoint; at first of the start.")) {
    last_step_time.SetToCurrentTime();
    last_checkpoint_time.SetToCurrentTime();
  }

  // issued = trained + filtered + sum of dropped + in_flight.
  void SetCounts(const v1::RolloutCounts& counts) {
    groups_issued.Set(static_cast<double>(counts.issued()));
    groups_trained.Set(static_cast<double>(counts.trained()));
    groups_filtered.Set(static_cast<double>(counts.filtered()));
    groups_in_flight.Set(static_cast<double>(counts.in_flight()));
    for (const auto& [reason, count] : counts.dropped()) {
      registry
          .AddGauge("rollcall_learner_groups_dropped", "Groups dropped, by reason.",
                    {{"reason", reason}})
          .Set(static_cast<double>(count));
    }
  }

  void SetDataCounts(const v1::DataCounts& counts) {
    data_rows_used.Set(static_cast<double>(counts.used()));
    data_rows_skipped.Set(static_cast<double>(counts.skipped()));
    data_rows_dropped.Set(static_cast<double>(counts.dropped()));
    data_rows_truncated.Set(static_cast<double>(counts.truncated()));
  }

  // A call to "generator", "reward" or "reference" that failed.
  void CountFault(const std::string& service, const absl::Status& status) {
    registry
        .AddCounter("rollcall_learner_call_faults_total", "Calls to other services that failed.",
                    {{"service", service}, {"code", absl::StatusCodeToString(status.code())}})
        .Increment();
  }

  // Every figure of a step, under the name it has in metrics.jsonl.
  void SetStepValues(const std::map<std::string, double>& values) {
    for (const auto& [name, value] : values) {
      registry
          .AddGauge("rollcall_learner_step_value", "Figures of the last step, as in metrics.jsonl.",
                    {{"name", name}})
          .Set(value);
    }
  }

  metrics::Registry& registry;
  metrics::Gauge& step;
  metrics::Gauge& run_over;
  metrics::Gauge& lineage;
  metrics::Gauge& groups_issued;
  metrics::Gauge& groups_trained;
  metrics::Gauge& groups_filtered;
  metrics::Gauge& groups_in_flight;
  metrics::Gauge& generators_serving;
  metrics::Gauge& trained_parameters;
  metrics::Gauge& optimizer_bytes;
  // used + skipped + dropped rows were in the files; the truncated ones are used.
  metrics::Gauge& data_rows_used;
  metrics::Gauge& data_rows_skipped;
  metrics::Gauge& data_rows_dropped;
  metrics::Gauge& data_rows_truncated;
  metrics::Histogram& step_seconds;
  metrics::Histogram& checkpoint_seconds;
  metrics::Histogram& weight_sync_seconds;
  metrics::Counter& weight_sync_bytes;
  metrics::Gauge& last_step_time;
  metrics::Gauge& last_checkpoint_time;

 private:
  metrics::Gauge& Rows(const std::string& state) {
    return registry.AddGauge("rollcall_learner_data_rows",
                             "Rows of the run's files by what became of them.", {{"state", state}});
  }
  metrics::Gauge& Ended(const std::string& state) {
    return registry.AddGauge("rollcall_learner_groups", "Groups by what became of them.",
                             {{"state", state}});
  }
};

}  // namespace rollcall::learner
