#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/checkpoint/safetensors.h"

namespace rollcall::checkpoint {
namespace {

std::string LittleEndian64(uint64_t value) {
  std::string bytes(8, '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(value & 0xff);
    value >>= 8;
  }
  return bytes;
}

// JSON in which bytes that are no UTF-8 become U+FFFD instead of an exception.
std::string Dump(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Length and JSON, padded with spaces so that the data begins at a multiple of 8 bytes.
absl::StatusOr<std::string> HeaderBytes(const std::vector<TensorEntry>& entries,
                                        const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) absl::StrAppend(&text, "\"__metadata__\":", Dump(metadata));
  std::set<std::string> names;
  int64_t position = 0;
  for (const TensorEntry& entry : entries) {
    if (entry.name == "__metadata__" || !names.insert(entry.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", entry.name,
                       "': ", entry.name == "__metadata__" ? "reserved name" : "given twice"));
    }
    ROLLCALL_ASSIGN_OR_RETURN(const int64_t bytes,
                              Annotate(wire::ByteSize(entry.dtype, entry.shape), entry.name));
    absl::StrAppend(&text, text.size() > 1 ? "," : "", Dump(entry.name), ":{\"dtype\":\"",
                    std::string(wire::SafetensorsName(entry.dtype)), "\",\"shape\":[",
                    absl::StrJoin(entry.shape, ","), "],\"data_offsets\":[", position, ",",
                    position + bytes, "]}");
    position += bytes;
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxSafetensorsHeader) {
    return absl::InvalidArgumentError(
        absl::StrCat("the header would take ", text.size(), " bytes"));
  }
  return LittleEndian64(text.size()) + text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<TensorEntry> entries,
    const std::map<std::string, std::string>& metadata) {
  std::stable_sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return wire::SizeOf(a.dtype) > wire::SizeOf(b.dtype);
  });
  ROLLCALL_ASSIGN_OR_RETURN(const std::string header, HeaderBytes(entries, metadata));
  const std::string partial_path = path + ".partial";
  const int fd = open(partial_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, partial_path);
  std::unique_ptr<SafetensorsWriter> writer(
      new SafetensorsWriter(path, partial_path, fd, std::move(entries)));
  ROLLCALL_RETURN_IF_ERROR(writer->Write(header));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(partial_path_.c_str());
}

absl::Status SafetensorsWriter::Write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, absl::StrCat(partial_path_, ": write"));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Append(std::string_view bytes) {
  if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat(path_, ": already finished"));
  if (next_ == entries_.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": all ", next_, " tensors are written"));
  }
  const TensorEntry& entry = entries_[next_];
  const int64_t expected = *wire::ByteSize(entry.dtype, entry.shape);  // checked by Create
  if (bytes.size() != static_cast<size_t>(expected)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor '", entry.name, "' takes ",
                                                   expected, " bytes, got ", bytes.size()));
  }
  ROLLCALL_RETURN_IF_ERROR(Write(bytes));
  ++next_;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (fd_ < 0) return absl::FailedPreconditionError(absl::StrCat(path_, ": already finished"));
  if (next_ != entries_.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": ", next_, " of ", entries_.size(), " tensors written"));
  }
  if (fsync(fd_) != 0) return absl::ErrnoToStatus(errno, absl::StrCat(partial_path_, ": fsync"));
  close(fd_);
  fd_ = -1;
  if (rename(partial_path_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(partial_path_.c_str());
    return absl::ErrnoToStatus(error, absl::StrCat(path_, ": rename"));
  }
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  return SyncDirectory(folder.empty() ? "." : folder);
}

}  // namespace rollcall::checkpoint
