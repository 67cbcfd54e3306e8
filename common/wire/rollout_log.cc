#include "common/wire/rollout_log.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status.h"

namespace rollcall::wire {
namespace {

// Yields the records of one file with their offsets; stops at the end, at a torn tail or at the
// first error.
absl::Status ReadRecords(
    const std::string& path,
    const std::function<absl::Status(uint64_t offset, const v1::RolloutRecord&)>& visit) {
  ROLLCALL_ASSIGN_OR_RETURN(std::unique_ptr<RecordReader> reader, RecordReader::Open(path));
  while (true) {
    const uint64_t offset = reader->offset();
    ROLLCALL_ASSIGN_OR_RETURN(std::optional<std::string> payload, reader->Next());
    if (!payload) return absl::OkStatus();
    v1::RolloutRecord record;
    if (!record.ParseFromString(*payload)) {
      return absl::DataLossError(
          absl::StrCat(path, ": the record at byte ", offset, " is no rollcall.v1.RolloutRecord"));
    }
    ROLLCALL_RETURN_IF_ERROR(visit(offset, record));
  }
}

absl::StatusOr<std::vector<std::string>> RecordFiles(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  if (!std::filesystem::exists(folder, error)) return files;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    if (it->path().extension() == ".rec") files.push_back(it->path().string());
  }
  if (error) return absl::UnavailableError(absl::StrCat(folder, ": ", error.message()));
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RolloutLogWriter>> RolloutLogWriter::Open(
    const std::string& folder, const v1::LineageStart& start) {
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories(folder));
  ROLLCALL_ASSIGN_OR_RETURN(
      std::unique_ptr<RecordWriter> file,
      RecordWriter::Open(absl::StrFormat("%s/lineage-%06d.rec", folder, start.lineage())));
  const bool fresh = file->size() == 0;
  auto writer = std::unique_ptr<RolloutLogWriter>(new RolloutLogWriter(std::move(file)));
  if (fresh) {
    v1::RolloutRecord record;
    *record.mutable_start() = start;
    ROLLCALL_RETURN_IF_ERROR(writer->Append(record));
    ROLLCALL_RETURN_IF_ERROR(writer->Sync());
  }
  return writer;
}

absl::Status RolloutLogWriter::Append(const v1::RolloutRecord& record) {
  std::string payload;
  if (!record.SerializeToString(&payload)) {
    return absl::InvalidArgumentError("the record is too large for a protobuf message");
  }
  return writer_->Append(payload);
}

absl::StatusOr<RolloutIndex> RolloutIndex::Read(const std::string& folder) {
  RolloutIndex index;
  ROLLCALL_ASSIGN_OR_RETURN(index.files_, RecordFiles(folder));
  for (size_t file = 0; file < index.files_.size(); ++file) {
    index.current_.Clear();
    ROLLCALL_RETURN_IF_ERROR(
        ReadRecords(index.files_[file], [&](uint64_t offset, const v1::RolloutRecord& record) {
          index.Apply(record, file, offset);
          return absl::OkStatus();
        }));
  }
  return index;
}

void RolloutIndex::Apply(const v1::RolloutRecord& record, size_t file, uint64_t offset) {
  switch (record.record_case()) {
    case v1::RolloutRecord::kStart: {
      current_ = record.start();
      const Key from{v1::RANDOM_PURPOSE_ROLLOUT, current_.next_group_id()};
      const Key to{v1::RANDOM_PURPOSE_EVALUATION, 0};
      for (auto it = entries_.lower_bound(from); it != entries_.lower_bound(to); ++it) {
        if (it->second.outcome.has_dropped()) continue;
        it->second.outcome.mutable_finished();
        it->second.trained_step.reset();
      }
      break;
    }
    case v1::RolloutRecord::kGroup: {
      const v1::Group& group = record.group();
      Entry& entry = entries_[{group.purpose(), group.group_id()}];
      if (group.lineage() < entry.lineage) break;
      entry = Entry{.lineage = group.lineage(),
                    .content_hash = current_.content_hash(),
                    .outcome = group.outcome(),
                    .trained_step = std::nullopt,
                    .file = file,
                    .offset = offset};
      if (group.has_trained_step()) entry.trained_step = group.trained_step();
      break;
    }
    case v1::RolloutRecord::kUpdate: {
      const v1::GroupUpdate& update = record.update();
      auto found = entries_.find({update.purpose(), update.group_id()});
      if (found == entries_.end()) break;  // its group was too large to be recorded
      found->second.outcome = update.outcome();
      found->second.trained_step.reset();
      if (update.has_trained_step()) found->second.trained_step = update.trained_step();
      break;
    }
    case v1::RolloutRecord::RECORD_NOT_SET:
      break;  // a kind of record from a later release
  }
}

absl::Status RolloutIndex::ForEach(const std::function<bool(const Key&, const Entry&)>& wanted,
                                   const std::function<absl::Status(v1::Group)>& visit) const {
  for (size_t file = 0; file < files_.size(); ++file) {
    ROLLCALL_RETURN_IF_ERROR(
        ReadRecords(files_[file], [&](uint64_t offset, const v1::RolloutRecord& record) {
          if (!record.has_group()) return absl::OkStatus();
          const auto found = entries_.find({record.group().purpose(), record.group().group_id()});
          if (found == entries_.end()) return absl::OkStatus();  // appended after Read()
          const auto& [key, entry] = *found;
          if (entry.file != file || entry.offset != offset || !wanted(key, entry)) {
            return absl::OkStatus();
          }
          v1::Group group = record.group();
          *group.mutable_outcome() = entry.outcome;
          group.clear_trained_step();
          if (entry.trained_step) group.set_trained_step(*entry.trained_step);
          return visit(std::move(group));
        }));
  }
  return absl::OkStatus();
}

}  // namespace rollcall::wire
