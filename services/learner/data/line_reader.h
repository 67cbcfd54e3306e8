#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::learner {

// Longer lines are refused: a prompt of a million tokens takes 4 to 5 MB.
inline constexpr size_t kMaxLineBytes = size_t{16} << 20;

// The lines of a JSONL file, of which no more than one and a block of 256 KiB are in memory.
class LineReader {
 public:
  // From the beginning, behind a byte order mark. NOT_FOUND or PERMISSION_DENIED when the file
  // cannot be read, INVALID_ARGUMENT for a folder, UTF-16 text, and Parquet or compressed files,
  // with what to do.
  static absl::StatusOr<LineReader> Open(const std::string& path);
  // From byte `offset` on, where a line begins that was found before.
  static absl::StatusOr<LineReader> OpenAt(const std::string& path, uint64_t offset);

  // Puts the next line, without its "\n", into line(); false at the end of the file. Of a line that
  // is longer than kMaxLineBytes, too_long() is true and the text is not there.
  absl::StatusOr<bool> Next();

  std::string_view line() const { return line_; }
  bool too_long() const { return too_long_; }
  bool blank() const { return !too_long_ && line_.find_first_not_of(" \t\r") == std::string::npos; }
  // Byte of the file at which the next line begins.
  uint64_t offset() const { return offset_; }

 private:
  LineReader(std::string path, FILE* file, uint64_t offset);

  absl::Status Fill();
  absl::Status CheckStart();

  std::string path_;
  std::unique_ptr<FILE, int (*)(FILE*)> file_;
  std::string block_;
  size_t begin_ = 0, end_ = 0;  // what is left of block_
  uint64_t offset_ = 0;
  std::string line_;
  bool too_long_ = false;
};

}  // namespace rollcall::learner
