#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/learner/data/block_order.h"
#include "services/learner/data/jsonl_file.h"

namespace rollcall::learner {

// Whether a data file is Parquet, as its name says.
bool IsParquet(std::string_view path);

// The rows of a block as text, to be parsed when their turn comes.
struct RowTexts {
  struct Row {
    size_t begin = 0, size = 0;  // of `text`
    uint64_t line = 0;
    bool too_long = false;  // its text is not there
  };
  std::string text;
  std::vector<Row> rows;
  uint64_t first_row = 0;  // of the first one, within the file
  std::optional<uint64_t> row_group;

  // The object of rows[index] of the file at `path`, or what is wrong with it.
  absl::Status Parse(const std::string& path, size_t index, const OnJsonRow& on_row) const;
};

// A data file that is read block by block and never held whole. What it holds is where its blocks
// begin: 32 bytes for every 512 KiB. Thread-safe; blocks may be read by one thread at a time.
class RowFile {
 public:
  virtual ~RowFile() = default;

  const std::string& path() const { return path_; }
  const std::vector<RowBlock>& blocks() const { return blocks_; }
  uint64_t rows() const { return rows_; }

  // DATA_LOSS: the file is damaged, or is not what it was when it was opened.
  virtual absl::StatusOr<RowTexts> ReadBlock(size_t block) const = 0;

 protected:
  explicit RowFile(std::string path) : path_(std::move(path)) {}

  // The block of the next `rows` rows; the numbers of the rows before it are added up here.
  void AddBlock(RowBlock block);
  uint64_t first_row(size_t block) const { return first_rows_[block]; }

 private:
  const std::string path_;
  std::vector<RowBlock> blocks_;
  std::vector<uint64_t> first_rows_;
  uint64_t rows_ = 0;
};

// Passes once over a JSONL file: each line must be text in UTF-8 from "{" to "}" (whether it is JSON
// is seen when it is used). A line that is not is an error, INVALID_ARGUMENT, or with
// `skips_bad_rows` left for later. Else the statuses of LineReader.
absl::StatusOr<std::unique_ptr<const RowFile>> OpenJsonl(const std::string& path,
                                                         bool skips_bad_rows);

// Statuses of ParquetFile::Open; DATA_LOSS also for more than 2^32 rows.
absl::StatusOr<std::unique_ptr<const RowFile>> OpenParquet(const std::string& path);

// ForEachJsonRow for a Parquet file. Statuses of OpenParquet and ReadBlock.
absl::Status ForEachParquetRow(const std::string& path, const OnJsonRow& on_row);

}  // namespace rollcall::learner
