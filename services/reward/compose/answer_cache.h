#pragma once

#include <cstddef>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/verifier.pb.h"

namespace rollcall::reward {

// Answers by idempotency key, the least recently used dropped first: what makes a repeated Score
// free and equal. A key answers only for the request it was stored with, told by its fingerprint;
// the same key about other samples is a miss, and storing replaces it. Thread-safe; never blocks on
// anything but its lock.
class AnswerCache {
 public:
  // Holds at most `max_bytes` of keys, fingerprints and serialized answers; 0 keeps nothing.
  explicit AnswerCache(size_t max_bytes) : max_bytes_(max_bytes) {}

  std::optional<v1::ScoreResponse> Find(const std::string& key, const std::string& fingerprint)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // An answer larger than the whole cache is not kept.
  void Store(const std::string& key, const std::string& fingerprint,
             const v1::ScoreResponse& response) ABSL_LOCKS_EXCLUDED(mutex_);

  size_t bytes() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Entry {
    std::string key;
    std::string fingerprint;
    std::string response;  // serialized: a third of the message's memory
    size_t bytes() const { return key.size() + fingerprint.size() + response.size(); }
  };

  void Drop(std::list<Entry>::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t max_bytes_;

  mutable absl::Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // the most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_key_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace rollcall::reward
