#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/identity.pb.h"

namespace rollcall::learner {

// The versions that this learner has published in its lineage, by step: what a server claims to
// hold is checked against them. Grows by 100 bytes a step. Thread-safe.
class PublishedVersions {
 public:
  // Steps are added in increasing order; the last one is current.
  void Add(const v1::PolicyVersion& version) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    by_step_[version.step()] = version;
  }

  std::optional<v1::PolicyVersion> Find(uint64_t step) const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    const auto found = by_step_.find(step);
    if (found == by_step_.end()) return std::nullopt;
    return found->second;
  }

  // The newest; nullopt before the first.
  std::optional<v1::PolicyVersion> Current() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (by_step_.empty()) return std::nullopt;
    return by_step_.rbegin()->second;
  }

 private:
  mutable absl::Mutex mutex_;
  std::map<uint64_t, v1::PolicyVersion> by_step_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
