#include "common/metrics/registry.h"

#include <prometheus/collectable.h>
#include <prometheus/family.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/build_info.h"
#include "common/base/logging.h"

namespace rollcall::metrics {
namespace {

// prometheus-cpp throws on names and labels that cannot be; ours are literals. `builder` is what
// BuildCounter() and its siblings return, the library's only way to a family.
template <typename Builder, typename... Arguments>
auto& Add(Builder builder, prometheus::Registry& registry, const std::string& name,
          const std::string& help, const Labels& labels, const Arguments&... arguments) {
  try {
    if (!name.starts_with("rollcall_")) throw std::invalid_argument("must start with rollcall_");
    return builder.Name(name).Help(help).Register(registry).Add(labels, arguments...);
  } catch (const std::exception& error) {
    LogError("bad metric", {{"name", name}, {"error", error.what()}});
    std::abort();
  }
}

}  // namespace

// What a scrape collects. Thread-safe.
class Registry::Everything final : public prometheus::Collectable {
 public:
  explicit Everything(std::shared_ptr<prometheus::Registry> registry)
      : registry_(std::move(registry)) {}

  void Add(const std::string& name, const std::string& help, std::function<double()> value) {
    absl::MutexLock lock(&mutex_);
    computed_.push_back({name, help, std::move(value)});
  }

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families = registry_->Collect();
    absl::MutexLock lock(&mutex_);
    for (const Computed& gauge : computed_) {
      prometheus::MetricFamily& family = families.emplace_back();
      family.name = gauge.name;
      family.help = gauge.help;
      family.type = prometheus::MetricType::Gauge;
      family.metric.emplace_back().gauge.value = gauge.value();
    }
    return families;
  }

 private:
  struct Computed {
    std::string name;
    std::string help;
    std::function<double()> value;
  };

  const std::shared_ptr<prometheus::Registry> registry_;
  mutable absl::Mutex mutex_;
  std::vector<Computed> computed_ ABSL_GUARDED_BY(mutex_);
};

Registry::Registry()
    : registry_(std::make_shared<prometheus::Registry>()),
      everything_(std::make_shared<Everything>(registry_)) {}
Registry::~Registry() = default;

Counter& Registry::AddCounter(const std::string& name, const std::string& help,
                              const Labels& labels) {
  return Add(prometheus::BuildCounter(), *registry_, name, help, labels);
}

Gauge& Registry::AddGauge(const std::string& name, const std::string& help, const Labels& labels) {
  return Add(prometheus::BuildGauge(), *registry_, name, help, labels);
}

Histogram& Registry::AddHistogram(const std::string& name, const std::string& help,
                                  const std::vector<double>& bounds, const Labels& labels) {
  return Add(prometheus::BuildHistogram(), *registry_, name, help, labels, bounds);
}

void Registry::AddComputedGauge(const std::string& name, const std::string& help,
                                std::function<double()> value) {
  everything_->Add(name, help, std::move(value));
}

std::shared_ptr<prometheus::Collectable> Registry::collectable() const { return everything_; }

void Registry::AddBuildInfo(std::string_view service) {
  AddGauge("rollcall_build_info", "Always 1; its labels tell which build of which service runs.",
           {{"service", std::string(service)},
            {"version", std::string(Version())},
            {"build_type", std::string(BuildType())}})
      .Set(1);
}

std::string Registry::Text() const {
  return prometheus::TextSerializer().Serialize(everything_->Collect());
}

std::vector<double> LatencyBuckets() { return ExponentialBuckets(0.001, 2.0, 18); }

std::vector<double> ExponentialBuckets(double first, double factor, int count) {
  std::vector<double> bounds;
  double bound = first;
  for (int i = 0; i < count; ++i, bound *= factor) bounds.push_back(bound);
  return bounds;
}

}  // namespace rollcall::metrics
