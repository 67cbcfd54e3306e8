#include "services/reward/compose/answer_cache.h"

#include <utility>

namespace rollcall::reward {

std::optional<v1::ScoreResponse> AnswerCache::Find(const std::string& key,
                                                   const std::string& fingerprint) {
  std::string bytes;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = by_key_.find(key);
    if (it == by_key_.end() || it->second->fingerprint != fingerprint) return std::nullopt;
    entries_.splice(entries_.begin(), entries_, it->second);
    bytes = it->second->response;
  }
  v1::ScoreResponse response;
  if (!response.ParseFromString(bytes)) return std::nullopt;
  return response;
}

void AnswerCache::Store(const std::string& key, const std::string& fingerprint,
                        const v1::ScoreResponse& response) {
  Entry entry{key, fingerprint, response.SerializeAsString()};
  absl::MutexLock lock(&mutex_);
  if (const auto it = by_key_.find(key); it != by_key_.end()) Drop(it->second);
  if (entry.bytes() > max_bytes_) return;
  bytes_ += entry.bytes();
  entries_.push_front(std::move(entry));
  by_key_[key] = entries_.begin();
  while (bytes_ > max_bytes_) Drop(std::prev(entries_.end()));
}

size_t AnswerCache::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

void AnswerCache::Drop(std::list<Entry>::iterator entry) {
  bytes_ -= entry->bytes();
  by_key_.erase(entry->key);
  entries_.erase(entry);
}

}  // namespace rollcall::reward
