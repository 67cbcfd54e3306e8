#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace prometheus {
class Collectable;
class Registry;
}  // namespace prometheus

namespace rollcall::metrics {

using Counter = prometheus::Counter;      // Increment(double = 1); only up
using Gauge = prometheus::Gauge;          // Set, Increment, Decrement
using Histogram = prometheus::Histogram;  // Observe(double)
using Labels = std::map<std::string, std::string>;

// The metrics of one process. Each component declares one struct of references and fills it from
// the registry that it is given:
//
//   struct EngineMetrics {
//     explicit EngineMetrics(metrics::Registry& registry)
//         : tokens(registry.AddCounter("rollcall_generator_tokens_total", "Tokens sampled.")) {}
//     metrics::Counter& tokens;
//   };
//
// Names start with "rollcall_", units are base units and part of the name (_seconds, _bytes),
// counters end in _total. A bad name, or one name with two types, is a fault of the program and
// aborts. The same name and labels give the same metric again. References live as long as the
// registry. Thread-safe, as are the metrics.
class Registry {
 public:
  Registry();
  ~Registry();

  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  Counter& AddCounter(const std::string& name, const std::string& help, const Labels& labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help, const Labels& labels = {});
  // `bounds`: upper bounds of the buckets, ascending; +Inf is implied.
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          const std::vector<double>& bounds, const Labels& labels = {});

  // A gauge whose value is asked for at each scrape, from the scraper's thread; `value` lives as
  // long as the registry.
  void AddComputedGauge(const std::string& name, const std::string& help,
                        std::function<double()> value);

  // Adds rollcall_build_info{service, version, build_type} = 1.
  void AddBuildInfo(std::string_view service);

  // What /metrics answers: the Prometheus text format.
  std::string Text() const;

 private:
  friend class Exposer;

  // registry_ and the computed gauges.
  std::shared_ptr<prometheus::Collectable> collectable() const;

  class Everything;
  const std::shared_ptr<prometheus::Registry> registry_;
  const std::shared_ptr<Everything> everything_;
};

// Bucket bounds that suit latencies of calls: 1 ms to about 2 minutes, each twice the one before.
std::vector<double> LatencyBuckets();

// `count` bounds from `first`, each `factor` times the one before.
std::vector<double> ExponentialBuckets(double first, double factor, int count);

}  // namespace rollcall::metrics
