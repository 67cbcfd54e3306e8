#include "common/wire/record_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/logging.h"
#include "common/base/status.h"
#include "common/wire/little_endian.h"

namespace rollcall::wire {
namespace {

constexpr size_t kHeaderBytes = 8;

// Bytes of CRC that the search beyond damage may compute before it takes the damage for a torn
// tail: some tenths of a second, against minutes for a hostile tail in which every offset looks
// like the header of a large record.
constexpr size_t kSearchBudget = size_t{512} << 20;

uint32_t Crc32(std::string_view payload) {
  return static_cast<uint32_t>(
      ::crc32_z(0, reinterpret_cast<const unsigned char*>(payload.data()), payload.size()));
}

// Length of the payload that a header announces, or 0 when no record has such a header.
size_t AnnouncedLength(std::string_view header) {
  const uint32_t length = LoadLittleEndian<uint32_t>(header);
  return length <= kMaxRecordBytes ? length : 0;
}

bool PayloadMatches(std::string_view header, std::string_view payload) {
  return LoadLittleEndian<uint32_t>(header.substr(4)) == Crc32(payload);
}

absl::Status ErrnoStatus(std::string_view action, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(std::string(action), " ", path));
}

absl::StatusOr<uint64_t> SizeOfFile(const FileDescriptor& file, const std::string& path) {
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return ErrnoStatus("cannot stat", path);
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecordReader>> RecordReader::Open(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return ErrnoStatus("cannot open", path);
  return std::unique_ptr<RecordReader>(new RecordReader(path, std::move(file)));
}

absl::StatusOr<std::optional<std::string>> RecordReader::Next() {
  torn_offset_.reset();
  ROLLCALL_ASSIGN_OR_RETURN(std::optional<std::string> record, ReadRecord());
  if (record.has_value()) return record;
  ROLLCALL_ASSIGN_OR_RETURN(const std::string rest, ReadAt(offset_, 1));
  if (rest.empty()) return std::optional<std::string>();
  ROLLCALL_ASSIGN_OR_RETURN(const bool followed, WholeRecordFollows());
  if (!followed) {
    torn_offset_ = offset_;
    return std::optional<std::string>();
  }
  // A live writer may have finished this record and the next since we looked; then it is whole now.
  ROLLCALL_ASSIGN_OR_RETURN(record, ReadRecord());
  if (record.has_value()) return record;
  return absl::DataLossError(
      absl::StrCat(path_, ": corrupt record at offset ", offset_, ", and whole records after it"));
}

absl::StatusOr<std::optional<std::string>> RecordReader::ReadRecord() {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string header, ReadAt(offset_, kHeaderBytes));
  const size_t length = header.size() == kHeaderBytes ? AnnouncedLength(header) : 0;
  if (length == 0) return std::optional<std::string>();
  ROLLCALL_ASSIGN_OR_RETURN(std::string payload, ReadAt(offset_ + kHeaderBytes, length));
  if (payload.size() != length || !PayloadMatches(header, payload)) {
    return std::optional<std::string>();
  }
  offset_ += kHeaderBytes + length;
  return std::optional<std::string>(std::move(payload));
}

absl::StatusOr<std::string> RecordReader::RecordAt(uint64_t offset) {
  offset_ = offset;
  torn_offset_.reset();
  ROLLCALL_ASSIGN_OR_RETURN(std::optional<std::string> record, ReadRecord());
  if (record.has_value()) return *std::move(record);
  return absl::DataLossError(absl::StrCat(path_, ": no whole record at offset ", offset));
}

absl::StatusOr<std::string> RecordReader::ReadAt(uint64_t offset, size_t size) const {
  // What a damaged header announces may be far more than there is: allocate no more than the file
  // holds.
  ROLLCALL_ASSIGN_OR_RETURN(const uint64_t file_size, SizeOfFile(file_, path_));
  size = std::min<uint64_t>(size, file_size - std::min(offset, file_size));
  std::string bytes(size, '\0');
  size_t used = 0;
  while (used < size) {
    const ssize_t count =
        ::pread(file_.get(), bytes.data() + used, size - used, static_cast<off_t>(offset + used));
    if (count < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("cannot read", path_);
    }
    if (count == 0) break;
    used += static_cast<size_t>(count);
  }
  bytes.resize(used);
  return bytes;
}

absl::StatusOr<bool> RecordReader::WholeRecordFollows() const {
  // A damaged record of at most the maximum, then a whole one of at most the maximum.
  ROLLCALL_ASSIGN_OR_RETURN(const std::string buffer,
                            ReadAt(offset_ + 1, 2 * (kHeaderBytes + kMaxRecordBytes)));
  const std::string_view bytes = buffer;
  size_t computed = 0;
  for (size_t start = 0; start + kHeaderBytes < bytes.size() && computed < kSearchBudget; ++start) {
    const std::string_view header = bytes.substr(start, kHeaderBytes);
    const size_t length = AnnouncedLength(header);
    if (length == 0 || start + kHeaderBytes + length > bytes.size()) continue;
    computed += length;
    if (PayloadMatches(header, bytes.substr(start + kHeaderBytes, length))) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<RecordWriter>> RecordWriter::Open(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!file.is_open()) return ErrnoStatus("cannot open", path);
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus("cannot lock", path);
    return absl::FailedPreconditionError(absl::StrCat(path, " is being written by another writer"));
  }
  std::unique_ptr<RecordWriter> writer(new RecordWriter(path, std::move(file)));
  ROLLCALL_RETURN_IF_ERROR(writer->CutTornTail());
  ROLLCALL_RETURN_IF_ERROR(writer->Sync());
  const std::string parent = std::filesystem::path(path).parent_path().string();
  ROLLCALL_RETURN_IF_ERROR(SyncDirectory(parent.empty() ? "." : parent));
  return writer;
}

absl::Status RecordWriter::CutTornTail() {
  ROLLCALL_ASSIGN_OR_RETURN(const std::unique_ptr<RecordReader> reader, RecordReader::Open(path_));
  while (true) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::optional<std::string> record, reader->Next());
    if (!record.has_value()) break;
    ++records_at_open_;
  }
  size_ = reader->offset();
  if (reader->torn_offset().has_value()) {
    ROLLCALL_ASSIGN_OR_RETURN(const uint64_t file_size, SizeOfFile(file_, path_));
    cut_bytes_ = file_size - size_;
    if (::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0) {
      return ErrnoStatus("cannot cut the torn tail of", path_);
    }
    LogWarning("cut a torn tail", {{"file", path_},
                                   {"offset", size_},
                                   {"bytes", cut_bytes_},
                                   {"records_kept", records_at_open_}});
  }
  return absl::OkStatus();
}

absl::Status RecordWriter::Append(std::string_view payload) {
  if (broken_) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": an earlier write failed and could not be undone"));
  }
  if (payload.empty() || payload.size() > kMaxRecordBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": a record holds 1 to ", kMaxRecordBytes,
                                                   " bytes, got ", payload.size()));
  }
  buffer_.clear();
  AppendLittleEndian(static_cast<uint32_t>(payload.size()), &buffer_);
  AppendLittleEndian(Crc32(payload), &buffer_);
  buffer_.append(payload);
  size_t written = 0;
  while (written < buffer_.size()) {
    const ssize_t count = ::pwrite(file_.get(), buffer_.data() + written, buffer_.size() - written,
                                   static_cast<off_t>(size_ + written));
    if (count < 0) {
      if (errno == EINTR) continue;
      const absl::Status failure = ErrnoStatus("cannot append to", path_);
      broken_ = ::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0;
      return failure;
    }
    written += static_cast<size_t>(count);
  }
  size_ += buffer_.size();
  return absl::OkStatus();
}

absl::Status RecordWriter::Sync() {
  if (::fdatasync(file_.get()) != 0) return ErrnoStatus("cannot sync", path_);
  return absl::OkStatus();
}

}  // namespace rollcall::wire
