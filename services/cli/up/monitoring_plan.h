#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::cli {

// Where Prometheus finds the metrics of one service.
struct ScrapeTarget {
  std::string service;  // "generator", whichever of them
  std::string address;  // "127.0.0.1:40001"
};

// The first of `count` neighbouring ports of 127.0.0.1 on which nobody listens now.
// RESOURCE_EXHAUSTED when none are found.
absl::StatusOr<uint16_t> FindFreePorts(uint32_t count);

// Gives each kind of service an address for /metrics on 127.0.0.1, unless the configuration has one;
// replicas count up from it. `free_ports` is FindFreePorts.
absl::Status AddMetricsAddresses(
    v1::RunConfig* config,
    const std::function<absl::StatusOr<uint16_t>(uint32_t count)>& free_ports);

// The services that `rollcall train` would start for this configuration and that serve metrics. Pure.
std::vector<ScrapeTarget> ScrapeTargetsOf(const v1::RunConfig& config);

// A Prometheus configuration: the targets, each asked every `seconds`, and every rule file in
// `rules_folder`. Pure.
std::string PrometheusConfig(const std::vector<ScrapeTarget>& targets, int seconds,
                             const std::string& rules_folder);

// What to ask first.
struct Query {
  std::string what;
  std::string expression;
};
std::vector<Query> FirstQueries();

}  // namespace rollcall::cli
