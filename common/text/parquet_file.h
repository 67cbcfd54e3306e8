#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

struct RollcallTable;

namespace rollcall::text {

// A Parquet file, read row by row as the lines of JSON that JSONL would have in its place: lists and
// structs are arrays and objects, text without a logical type is text, and what JSON cannot say
// (NaN, bytes that are no text) is null. Compression: none, snappy, zstd, gzip. A page of each
// column is in memory while a row group is read. Thread-safe; one read at a time.
class ParquetFile {
 public:
  struct RowGroup {
    uint64_t rows = 0;
    // Of its columns without compression, as the file says.
    uint64_t bytes = 0;
  };

  // NOT_FOUND or PERMISSION_DENIED when the file cannot be opened; DATA_LOSS: it is no Parquet file,
  // is damaged, or is of a kind that is not supported. Messages name the file and what to do.
  static absl::StatusOr<std::unique_ptr<const ParquetFile>> Open(const std::string& path);
  ~ParquetFile();
  ParquetFile(const ParquetFile&) = delete;
  ParquetFile& operator=(const ParquetFile&) = delete;

  const std::vector<RowGroup>& row_groups() const { return row_groups_; }

  // `count` rows of a row group from `first` on, each an object followed by "\n". Rows behind those
  // read last cost what they are; any others cost reading the group up to them. DATA_LOSS names row
  // group and column.
  absl::StatusOr<std::string> ReadRows(size_t group, uint64_t first, uint64_t count) const
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  ParquetFile(std::string path, RollcallTable* table, std::vector<RowGroup> row_groups)
      : path_(std::move(path)), table_(table), row_groups_(std::move(row_groups)) {}

  const std::string path_;
  mutable absl::Mutex mutex_;
  RollcallTable* const table_ ABSL_PT_GUARDED_BY(mutex_);
  const std::vector<RowGroup> row_groups_;
};

// Writes `rows`, a JSON object a line, as a Parquet file of `group_rows` rows a row group.
// `compression` is none, snappy, zstd or gzip. INVALID_ARGUMENT: no rows, or a column whose values
// are of several types.
absl::Status WriteParquet(const std::string& path, std::string_view rows, uint64_t group_rows,
                          std::string_view compression);

}  // namespace rollcall::text
