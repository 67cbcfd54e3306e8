#pragma once

#include "common/metrics/registry.h"

namespace rollcall::generator {

// What an engine reports of itself; written by its thread after each step.
struct EngineMetrics {
  explicit EngineMetrics(metrics::Registry& registry)
      : sampled_tokens(registry.AddCounter("rollcall_generator_sampled_tokens_total",
                                           "Tokens drawn for completions.")),
        prefill_tokens(registry.AddCounter("rollcall_generator_prefill_tokens_total",
                                           "Rows of prompts, prefixes and recomputed tokens.")),
        decode_tokens(registry.AddCounter("rollcall_generator_decode_tokens_total",
                                          "Rows of samples with one token left to compute.")),
        steps(registry.AddCounter("rollcall_generator_engine_steps_total", "Engine steps.")),
        step_seconds(registry.AddHistogram("rollcall_generator_engine_step_seconds",
                                           "Time of one engine step.",
                                           metrics::ExponentialBuckets(0.0005, 2, 16))),
        cancellation_steps(registry.AddHistogram(
            "rollcall_generator_cancellation_steps",
            "Steps that ended between a cancel, disconnect or deadline and the return of its cache "
            "blocks; at most the one that ran.",
            {0, 1, 2, 4})),
        first_token_seconds(registry.AddHistogram(
            "rollcall_generator_first_token_seconds",
            "Time from a request's arrival to its first token, its wait included.",
            metrics::ExponentialBuckets(0.001, 2, 20))),
        preemptions(registry.AddCounter("rollcall_generator_preemptions_total",
                                        "Samples that lost their cache blocks to older ones.")),
        prefix_cache_lookups(
            registry.AddCounter("rollcall_generator_prefix_cache_lookups_total",
                                "Samples that started and looked for their beginning.")),
        prefix_cache_hits(registry.AddCounter("rollcall_generator_prefix_cache_hits_total",
                                              "Samples that found some of it.")),
        prefix_cache_hit_tokens(
            registry.AddCounter("rollcall_generator_prefix_cache_hit_tokens_total",
                                "Tokens that were not computed again for it.")),
        prefix_cache_tokens(registry.AddGauge("rollcall_generator_prefix_cache_tokens",
                                              "Tokens that the prefix cache knows.")),
        running_samples(registry.AddGauge("rollcall_generator_running_samples",
                                          "Samples that hold a slot of the batch.")),
        waiting_samples(registry.AddGauge("rollcall_generator_waiting_samples",
                                          "Samples admitted and waiting.")),
        kv_tokens_total(registry.AddGauge("rollcall_generator_kv_capacity_tokens",
                                          "Tokens that fit the key/value cache.")),
        kv_tokens_free(registry.AddGauge("rollcall_generator_kv_free_tokens",
                                         "Tokens of the key/value cache that are free.")),
        policy_step(registry.AddGauge("rollcall_generator_policy_step",
                                      "Step of the policy version held; -1: none.")),
        policy_lineage(registry.AddGauge("rollcall_generator_policy_lineage",
                                         "Lineage of the policy version held; -1: none.")),
        weight_swaps(registry.AddCounter("rollcall_generator_weight_swaps_total",
                                         "Sets of weights put into service.")),
        weight_swap_seconds(registry.AddHistogram("rollcall_generator_weight_swap_seconds",
                                                  "Time between two steps that a swap took.",
                                                  metrics::LatencyBuckets())),
        mixed_kv_tokens(registry.AddCounter(
            "rollcall_generator_mixed_kv_tokens_total",
            "Tokens drawn over keys and values of several versions (on_weight_update: keep).")),
        requests_ok(Requests(registry, "ok")),
        requests_cancelled(Requests(registry, "cancelled")),
        requests_refused(Requests(registry, "refused")),
        requests_failed(Requests(registry, "failed")),
        requests_invalid(Requests(registry, "invalid")) {}

  metrics::Counter& sampled_tokens;
  metrics::Counter& prefill_tokens;
  metrics::Counter& decode_tokens;
  metrics::Counter& steps;
  metrics::Histogram& step_seconds;
  metrics::Histogram& cancellation_steps;
  metrics::Histogram& first_token_seconds;
  metrics::Counter& preemptions;
  metrics::Counter& prefix_cache_lookups;
  metrics::Counter& prefix_cache_hits;
  metrics::Counter& prefix_cache_hit_tokens;
  metrics::Gauge& prefix_cache_tokens;
  metrics::Gauge& running_samples;
  metrics::Gauge& waiting_samples;
  metrics::Gauge& kv_tokens_total;
  metrics::Gauge& kv_tokens_free;
  metrics::Gauge& policy_step;
  metrics::Gauge& policy_lineage;
  metrics::Counter& weight_swaps;
  metrics::Histogram& weight_swap_seconds;
  metrics::Counter& mixed_kv_tokens;
  metrics::Counter& requests_ok;
  metrics::Counter& requests_cancelled;
  metrics::Counter& requests_refused;
  metrics::Counter& requests_failed;
  metrics::Counter& requests_invalid;

 private:
  static metrics::Counter& Requests(metrics::Registry& registry, const char* outcome) {
    return registry.AddCounter("rollcall_generator_requests_total", "Generate requests by outcome.",
                               {{"outcome", outcome}});
  }
};

}  // namespace rollcall::generator
