#include "common/rpc/call_metrics.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>

namespace rollcall::rpc {
namespace {

// From 1 ms, a look-up, to 262 s, a long generation, with few series.
std::vector<double> Buckets() { return metrics::ExponentialBuckets(0.001, 4, 10); }

std::string LabelOf(std::string_view method) {
  if (!method.empty()) method.remove_prefix(1);
  std::string name(method);
  std::replace(name.begin(), name.end(), '/', '.');
  const bool known =
      google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(name) != nullptr;
  return known ? std::string(method) : "other";
}

}  // namespace

void CallMetrics::Record(std::string_view method, absl::StatusCode code, absl::Duration took) {
  const std::string label = LabelOf(method);
  absl::MutexLock lock(&mutex_);
  metrics::Histogram*& seconds = seconds_[label];
  if (seconds == nullptr) {
    seconds = &registry_->AddHistogram("rollcall_rpc_server_seconds",
                                       "Time from a call's arrival to its status.", Buckets(),
                                       {{"method", label}});
  }
  metrics::Counter*& calls = calls_[{label, code}];
  if (calls == nullptr) {
    calls = &registry_->AddCounter("rollcall_rpc_server_calls_total", "Calls answered, by status.",
                                   {{"method", label}, {"code", absl::StatusCodeToString(code)}});
  }
  seconds->Observe(absl::ToDoubleSeconds(took));
  calls->Increment();
}

}  // namespace rollcall::rpc
