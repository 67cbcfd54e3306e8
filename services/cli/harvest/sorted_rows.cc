#include "services/cli/harvest/sorted_rows.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/text/parquet_file.h"

namespace rollcall::cli {
namespace {

// A row group is what a reader shuffles by; pyarrow's and datasets' readers like them larger.
constexpr uint64_t kGroupRows = 1000;

absl::Status SystemError(const std::string& path, const char* what) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot ", what));
}

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

}  // namespace

absl::StatusOr<SortedRows> SortedRows::Open(const std::string& path) {
  std::string name = path + ".XXXXXX";
  const int descriptor = mkstemp(name.data());
  if (descriptor < 0) return SystemError(path, "write");
  unlink(name.c_str());
  return SortedRows(path, fdopen(descriptor, "w+b"));
}

absl::Status SortedRows::Add(uint64_t key, const std::string& line) {
  if (fwrite(line.data(), 1, line.size(), spool_.get()) != line.size()) {
    return SystemError(path_, "write");
  }
  lines_.push_back({key, size_, line.size()});
  size_ += line.size();
  return absl::OkStatus();
}

absl::Status SortedRows::Write() {
  std::stable_sort(lines_.begin(), lines_.end(),
                   [](const Line& a, const Line& b) { return a.key < b.key; });
  if (fflush(spool_.get()) != 0) return SystemError(path_, "write");
  const std::string partial = path_ + ".partial";
  absl::Status written;
  if (path_.ends_with(".parquet")) {
    written = WriteAsParquet(partial);
  } else {
    const std::unique_ptr<FILE, int (*)(FILE*)> out(fopen(partial.c_str(), "wb"), &fclose);
    if (out == nullptr) return SystemError(partial, "write");
    written = WriteLines(out.get());
    if (written.ok() && (fflush(out.get()) != 0 || fsync(fileno(out.get())) != 0)) {
      written = SystemError(partial, "write");
    }
  }
  if (!written.ok()) {
    unlink(partial.c_str());
    return written;
  }
  if (rename(partial.c_str(), path_.c_str()) != 0) return SystemError(path_, "write");
  return SyncDirectory(FolderOf(path_));
}

absl::StatusOr<std::string> SortedRows::Read(const Line& line) const {
  std::string text(line.size, '\0');
  size_t read = 0;
  while (read < text.size()) {
    const ssize_t more = pread(fileno(spool_.get()), text.data() + read, text.size() - read,
                               static_cast<off_t>(line.offset + read));
    if (more <= 0) return SystemError(path_, "read what is to be written to it");
    read += static_cast<size_t>(more);
  }
  return text;
}

absl::Status SortedRows::WriteLines(FILE* out) const {
  for (const Line& line : lines_) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string text, Read(line));
    if (fwrite(text.data(), 1, text.size(), out) != text.size() || fputc('\n', out) == EOF) {
      return SystemError(path_, "write");
    }
  }
  return absl::OkStatus();
}

absl::Status SortedRows::WriteAsParquet(const std::string& path) const {
  std::string rows;
  for (const Line& line : lines_) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string text, Read(line));
    absl::StrAppend(&rows, text, "\n");
  }
  return text::WriteParquet(path, rows, kGroupRows, "zstd");
}

}  // namespace rollcall::cli
