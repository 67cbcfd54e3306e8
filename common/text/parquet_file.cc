#include "common/text/parquet_file.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/text/crate_buffer.h"

namespace rollcall::text {
namespace {

constexpr char kRemedy[] =
    " (a damaged file is to be written again; compressions are none, snappy, zstd and gzip)";

absl::Status Damaged(const std::string& path, const CrateBuffer& error) {
  return absl::DataLossError(absl::StrCat(path, ": ", error.ToString(), kRemedy));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const ParquetFile>> ParquetFile::Open(const std::string& path) {
  if (access(path.c_str(), R_OK) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot open"));
  }
  RollcallTable* table = nullptr;
  CrateBuffer groups, error;
  if (rollcall_table_open(CrateBytes(path), path.size(), &table, groups.out(), error.out()) != 0) {
    return Damaged(path, error);
  }
  const auto numbers = groups.ToVector<uint64_t>();
  std::vector<RowGroup> row_groups;
  for (size_t i = 0; i + 1 < numbers.size(); i += 2) {
    row_groups.push_back({.rows = numbers[i], .bytes = numbers[i + 1]});
  }
  return std::unique_ptr<const ParquetFile>(new ParquetFile(path, table, std::move(row_groups)));
}

ParquetFile::~ParquetFile() { rollcall_table_free(table_); }

absl::StatusOr<std::string> ParquetFile::ReadRows(size_t group, uint64_t first,
                                                  uint64_t count) const {
  absl::MutexLock lock(&mutex_);
  CrateBuffer rows, error;
  if (rollcall_table_read(table_, group, first, count, rows.out(), error.out()) != 0) {
    return Damaged(path_, error);
  }
  return rows.ToString();
}

absl::Status WriteParquet(const std::string& path, std::string_view rows, uint64_t group_rows,
                          std::string_view compression) {
  CrateBuffer error;
  const int32_t code =
      rollcall_table_write(CrateBytes(path), path.size(), CrateBytes(rows), rows.size(), group_rows,
                           CrateBytes(compression), compression.size(), error.out());
  if (code == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", error.ToString()));
}

}  // namespace rollcall::text
