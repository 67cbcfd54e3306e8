#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_descriptor.h"

namespace rollcall::wire {

// An append-only file of records: u32 length, u32 CRC-32 (zlib) of the payload, payload; integers
// little-endian.
//
// A process that dies while it appends leaves a torn tail: a last record that is short, wrong or
// zeros, with no whole record after it. That is ordinary, reported and cut. Damage that a whole
// record follows is not a torn tail but corruption: DATA_LOSS, and nothing is cut. Both are told
// apart by looking for a whole record beyond the damage.

// One record's payload: 1 byte to 16 MiB. A group of 64 completions of 4096 tokens with log-probs
// is about 3 MiB. The bound also limits how far beyond damage the next record can start. Empty ones
// are refused because a tail of zeros, which some file systems leave after a power cut, would read
// as many of them.
inline constexpr size_t kMaxRecordBytes = size_t{16} << 20;

// Appends to one file. Not thread-safe. One writer at a time, among all processes, holds the file's
// lock.
class RecordWriter {
 public:
  // Opens or creates `path`, reads it through and cuts a torn tail, with a warning in the log and
  // cut_bytes(). The file's content is durable on return. FAILED_PRECONDITION: another writer has
  // it open; DATA_LOSS: corruption, with the offset.
  static absl::StatusOr<std::unique_ptr<RecordWriter>> Open(const std::string& path);

  // Writes one record, whole or not at all: a failed write is undone, and if that fails too every
  // later call returns FAILED_PRECONDITION. INVALID_ARGUMENT: empty or above kMaxRecordBytes.
  // Survives the death of the process, not of the machine, until Sync().
  absl::Status Append(std::string_view payload);

  // Makes all appended records durable. Blocks on the disk.
  absl::Status Sync();

  // Offset at which the next record will start: the file's size.
  uint64_t size() const { return size_; }
  // Whole records found at the opening, and bytes of torn tail cut then.
  uint64_t records_at_open() const { return records_at_open_; }
  uint64_t cut_bytes() const { return cut_bytes_; }

 private:
  RecordWriter(std::string path, FileDescriptor file)
      : path_(std::move(path)), file_(std::move(file)) {}

  absl::Status CutTornTail();

  const std::string path_;
  const FileDescriptor file_;
  uint64_t size_ = 0;
  uint64_t records_at_open_ = 0;
  uint64_t cut_bytes_ = 0;
  bool broken_ = false;
  std::string buffer_;  // header and payload of the record being written
};

// Reads one file from its start, also while a writer appends to it. Not thread-safe.
class RecordReader {
 public:
  static absl::StatusOr<std::unique_ptr<RecordReader>> Open(const std::string& path);

  // The next record, or nullopt at the end of the whole records; then torn_offset() tells whether
  // more bytes follow. After nullopt it may be called again: it continues there, and yields what a
  // writer has appended since. DATA_LOSS: corruption at offset(); nothing beyond can be read.
  absl::StatusOr<std::optional<std::string>> Next();

  // The record that starts at `offset`, as an earlier offset() said; Next() goes on behind it.
  // DATA_LOSS: there is no whole record there any more.
  absl::StatusOr<std::string> RecordAt(uint64_t offset);

  // Where the record that Next() will read starts.
  uint64_t offset() const { return offset_; }
  // Set by a Next() that found a torn tail (or a record still being written): where it starts.
  std::optional<uint64_t> torn_offset() const { return torn_offset_; }

 private:
  RecordReader(std::string path, FileDescriptor file)
      : path_(std::move(path)), file_(std::move(file)) {}

  // The record at offset_, passing it, or nullopt when there is no whole one there.
  absl::StatusOr<std::optional<std::string>> ReadRecord();
  // Up to `size` bytes at `offset`; fewer only at the end of the file.
  absl::StatusOr<std::string> ReadAt(uint64_t offset, size_t size) const;
  // Whether a whole record starts anywhere in the reach of the damage at offset_.
  absl::StatusOr<bool> WholeRecordFollows() const;

  const std::string path_;
  const FileDescriptor file_;
  uint64_t offset_ = 0;
  std::optional<uint64_t> torn_offset_;
};

}  // namespace rollcall::wire
