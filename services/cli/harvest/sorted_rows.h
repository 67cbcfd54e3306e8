#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace rollcall::cli {

// Lines that come in any order and are written in the order of their keys. They wait in a file
// without a name beside `path`; in memory are 24 bytes of each. Not thread-safe.
class SortedRows {
 public:
  // `path` is the file that Write will make; nothing is there before. Statuses of the system.
  static absl::StatusOr<SortedRows> Open(const std::string& path);

  // Lines of one key stay in the order in which they were added.
  absl::Status Add(uint64_t key, const std::string& line);
  // Puts the file in its place, complete: JSONL, or Parquet (compressed with zstd; all lines are in
  // memory meanwhile) where its name ends so.
  absl::Status Write();

 private:
  struct Line {
    uint64_t key = 0, offset = 0, size = 0;
  };
  SortedRows(std::string path, FILE* spool) : path_(std::move(path)), spool_(spool, &fclose) {}

  absl::StatusOr<std::string> Read(const Line& line) const;
  absl::Status WriteLines(FILE* out) const;
  absl::Status WriteAsParquet(const std::string& path) const;

  std::string path_;
  std::unique_ptr<FILE, int (*)(FILE*)> spool_;
  uint64_t size_ = 0;
  std::vector<Line> lines_;
};

}  // namespace rollcall::cli
