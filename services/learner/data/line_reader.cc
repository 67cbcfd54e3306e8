#include "services/learner/data/line_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

constexpr size_t kReadBytes = size_t{256} << 10;

absl::Status SystemError(const std::string& path, const char* what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot ", what));
}

// What a file is that does not begin as JSON Lines do, and what to do; empty: nothing that is
// known.
std::string_view ForeignFormat(std::string_view start) {
  if (start.starts_with("\xff\xfe") || start.starts_with("\xfe\xff")) {
    return "UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)";
  }
  if (start.starts_with("PAR1")) return "a Parquet file: let its name end in .parquet";
  if (start.starts_with("\x1f\x8b")) return "a gzip file: unpack it (gunzip)";
  if (start.starts_with("\x28\xb5\x2f\xfd")) return "a Zstandard file: unpack it (unzstd)";
  return {};
}

}  // namespace

LineReader::LineReader(std::string path, FILE* file, uint64_t offset)
    : path_(std::move(path)), file_(file, &fclose), block_(kReadBytes, '\0'), offset_(offset) {}

absl::StatusOr<LineReader> LineReader::OpenAt(const std::string& path, uint64_t offset) {
  struct stat about {};
  if (stat(path.c_str(), &about) != 0) return SystemError(path, "open");
  if (S_ISDIR(about.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a file, got a folder"));
  }
  FILE* file = fopen(path.c_str(), "rb");
  if (file == nullptr) return SystemError(path, "open");
  LineReader reader(path, file, offset);
  if (offset > 0 && fseeko(file, static_cast<off_t>(offset), SEEK_SET) != 0) {
    return SystemError(path, "read");
  }
  return reader;
}

absl::StatusOr<LineReader> LineReader::Open(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(LineReader reader, OpenAt(path, 0));
  ROLLCALL_RETURN_IF_ERROR(reader.Fill());
  ROLLCALL_RETURN_IF_ERROR(reader.CheckStart());
  return reader;
}

absl::StatusOr<bool> LineReader::Next() {
  line_.clear();
  too_long_ = false;
  bool any = false;
  while (true) {
    if (begin_ == end_) {
      ROLLCALL_RETURN_IF_ERROR(Fill());
      if (begin_ == end_) return any;
    }
    any = true;
    const std::string_view rest(block_.data() + begin_, end_ - begin_);
    const size_t length = std::min(rest.find('\n'), rest.size());
    if (line_.size() + length > kMaxLineBytes) {
      too_long_ = true;
      line_.clear();
    }
    if (!too_long_) line_.append(rest.substr(0, length));
    begin_ += length;
    offset_ += length;
    if (begin_ == end_) continue;
    ++begin_;
    ++offset_;
    return true;
  }
}

absl::Status LineReader::Fill() {
  begin_ = 0;
  end_ = fread(block_.data(), 1, block_.size(), file_.get());
  if (end_ == 0 && ferror(file_.get()) != 0) return SystemError(path_, "read");
  return absl::OkStatus();
}

absl::Status LineReader::CheckStart() {
  const std::string_view start(block_.data(), end_);
  if (const std::string_view format = ForeignFormat(start); !format.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": expected JSON Lines in UTF-8, got ", std::string(format)));
  }
  if (start.starts_with("\xef\xbb\xbf")) {  // a byte order mark, as Windows writes it
    begin_ = 3;
    offset_ = 3;
  }
  return absl::OkStatus();
}

}  // namespace rollcall::learner
