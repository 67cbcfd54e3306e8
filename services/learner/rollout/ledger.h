#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/bounded_queue.h"
#include "common/wire/rollout_log.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/rollout.pb.h"

namespace rollcall::learner {

// Writes a run's rollout file from a thread of its own, so that neither training nor generation
// waits for the disk. Thread-safe.
class Ledger {
 public:
  // Statuses as wire::RolloutLogWriter::Open.
  static absl::StatusOr<std::unique_ptr<Ledger>> Open(const std::string& folder,
                                                      const v1::LineageStart& start);
  // Writes and syncs what was recorded.
  ~Ledger();

  // Queue a record; block only while 1024 records wait. A group too large for a record is left out,
  // with a warning: its training does not depend on it.
  void RecordGroup(v1::Group group);
  void RecordTrained(uint64_t group_id, uint64_t step);
  // Of a group recorded earlier as finished.
  void RecordFiltered(uint64_t group_id, const std::string& filter);

  // Blocks until everything recorded so far is durable; the first failure to write, now or earlier.
  absl::Status Flush() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  explicit Ledger(std::unique_ptr<wire::RolloutLogWriter> writer);

  void Run();
  void Write(const v1::RolloutRecord& record);

  struct FlushRequest {
    uint64_t ticket = 0;
  };
  using Entry = std::variant<v1::RolloutRecord, FlushRequest>;

  const std::unique_ptr<wire::RolloutLogWriter> writer_;  // the thread's, once it runs
  BoundedQueue<Entry> queue_;

  absl::Mutex mutex_;
  uint64_t tickets_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t flushed_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

// SHA-256 over the parts of a configuration that decide what a group holds: seed, model of the
// reference, data, sampling, group size and verifiers, but no address, limit or time-out. 32 bytes.
std::string ContentHash(const v1::RunConfig& config);

// Finished groups of earlier lineages that would come out the same again: recorded under the same
// content hash, from `first_group_id` on, every token sampled under weights whose manifest hash is
// `manifest_hash`. Anything unreadable is reported and left out: those groups are then simply made
// again.
std::map<uint64_t, v1::Group> LoadReusableGroups(const std::string& folder, uint64_t first_group_id,
                                                 const std::string& content_hash,
                                                 const std::string& manifest_hash);

}  // namespace rollcall::learner
