#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/wire/record_file.h"
#include "rollcall/v1/rollout.pb.h"

namespace rollcall::wire {

// The rollout files of a run, <run>/rollouts/lineage-NNNNNN.rec: one per start of its learner, each
// a record file of v1::RolloutRecord that begins with a LineageStart. What became of a group is
// appended later as a GroupUpdate, so the present state of every group is the replay of all files
// in order (RolloutIndex).

// Appends to the file of one lineage. Not thread-safe.
class RolloutLogWriter {
 public:
  // Makes `folder` and opens the file of start.lineage(); a fresh file gets `start` as its first
  // record. Statuses as RecordWriter::Open.
  static absl::StatusOr<std::unique_ptr<RolloutLogWriter>> Open(const std::string& folder,
                                                                const v1::LineageStart& start);

  // Survives the death of the process, and after Sync() that of the machine. INVALID_ARGUMENT: the
  // record is larger than kMaxRecordBytes; nothing was written.
  absl::Status Append(const v1::RolloutRecord& record);
  absl::Status Sync() { return writer_->Sync(); }

 private:
  explicit RolloutLogWriter(std::unique_ptr<RecordWriter> writer) : writer_(std::move(writer)) {}

  std::unique_ptr<RecordWriter> writer_;
};

// Where a run's groups are recorded and what became of each, without their tokens: small enough for
// long runs. Immutable.
class RolloutIndex {
 public:
  using Key = std::pair<v1::RandomPurpose, uint64_t>;  // purpose, group id

  struct Entry {
    uint64_t lineage = 0;      // that recorded the group
    std::string content_hash;  // LineageStart.content_hash of that lineage
    v1::GroupOutcome outcome;
    std::optional<uint64_t> trained_step;
    size_t file = 0;      // index into files()
    uint64_t offset = 0;  // of the record within the file
  };

  // Replays every file of `folder`; a folder that does not exist is empty. A torn tail (a learner
  // that died, or is just writing) is passed over; DATA_LOSS: corruption, or a record that is no
  // RolloutRecord.
  static absl::StatusOr<RolloutIndex> Read(const std::string& folder);

  const std::map<Key, Entry>& entries() const { return entries_; }
  const std::vector<std::string>& files() const { return files_; }
  // The newest start of the run's learner; 0 where there is none.
  uint64_t last_lineage() const { return current_.lineage(); }

  // Reads the groups for which `wanted` is true, in file order, each with its present outcome;
  // stops at the first error of `visit`.
  absl::Status ForEach(const std::function<bool(const Key&, const Entry&)>& wanted,
                       const std::function<absl::Status(v1::Group)>& visit) const;

 private:
  void Apply(const v1::RolloutRecord& record, size_t file, uint64_t offset);

  std::vector<std::string> files_;
  std::map<Key, Entry> entries_;
  v1::LineageStart current_;  // of the file being replayed
};

}  // namespace rollcall::wire
