#include "services/learner/data/row_file.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/text/parquet_file.h"
#include "services/learner/data/line_reader.h"
#include "services/learner/data/utf8.h"

namespace rollcall::learner {
namespace {

constexpr uint64_t kBlockBytes = uint64_t{512} << 10;
// Rows whose text repeats take far more as JSON than a Parquet file says.
constexpr uint64_t kMaxBlockRows = 1024;
constexpr uint64_t kMaxParquetRows = uint64_t{1} << 32;

absl::Status Changed(const std::string& path) {
  return absl::DataLossError(absl::StrCat(
      path, ": the file has changed since the run opened it; start the run again with whole data"));
}

// What a look at a line's text and ends tells of it.
absl::Status CheckLine(const RowPlace& place, const LineReader& reader) {
  if (reader.too_long()) return TooLongLine(place);
  const std::string_view line = reader.line();
  const size_t begin = line.find_first_not_of(" \t\r"), end = line.find_last_not_of(" \t\r");
  if (line[begin] == '{' && line[end] == '}' && IsPlainUtf8(line)) return absl::OkStatus();
  const absl::Status parsed = ParseRow(place, line).status();
  return parsed.ok() ? place.Error("expected a JSON object on a line") : parsed;
}

class JsonlRows final : public RowFile {
 public:
  explicit JsonlRows(const std::string& path) : RowFile(path) {}

  absl::Status Scan(bool skips_bad_rows) {
    ROLLCALL_ASSIGN_OR_RETURN(LineReader reader, LineReader::Open(path()));
    RowPlace place{.path = path()};
    Start start{.offset = reader.offset(), .line = 1};
    RowBlock block;
    while (true) {
      ROLLCALL_ASSIGN_OR_RETURN(const bool more, reader.Next());
      if (!more) break;
      ++place.line;
      if (reader.blank()) continue;
      if (const absl::Status line = CheckLine(place, reader); !line.ok() && !skips_bad_rows) {
        return line;
      }
      ++place.row;
      ++block.rows;
      block.bytes = reader.offset() - start.offset;
      if (block.bytes < kBlockBytes) continue;
      Close(start, std::exchange(block, {}));
      start = {.offset = reader.offset(), .line = place.line + 1};
    }
    if (block.rows > 0) Close(start, block);
    return absl::OkStatus();
  }

  absl::StatusOr<RowTexts> ReadBlock(size_t block) const override {
    ROLLCALL_ASSIGN_OR_RETURN(LineReader reader, LineReader::OpenAt(path(), starts_[block].offset));
    RowTexts texts;
    texts.first_row = first_row(block);
    uint64_t line = starts_[block].line;
    const uint64_t rows = blocks()[block].rows;
    while (texts.rows.size() < rows) {
      ROLLCALL_ASSIGN_OR_RETURN(const bool more, reader.Next());
      if (!more) return Changed(path());
      if (!reader.blank()) {
        texts.rows.push_back({texts.text.size(), reader.line().size(), line, reader.too_long()});
        texts.text.append(reader.line());
      }
      ++line;
    }
    return texts;
  }

 private:
  struct Start {
    uint64_t offset = 0;
    uint64_t line = 0;
  };

  void Close(const Start& start, RowBlock block) {
    // Of lines that are too long the text is never held.
    block.bytes = std::min<uint64_t>(block.bytes, kBlockBytes + kMaxLineBytes);
    starts_.push_back(start);
    AddBlock(block);
  }

  std::vector<Start> starts_;
};

class ParquetRows final : public RowFile {
 public:
  ParquetRows(const std::string& path, std::unique_ptr<const text::ParquetFile> file)
      : RowFile(path), file_(std::move(file)) {}

  absl::Status Index() {
    const auto& groups = file_->row_groups();
    for (size_t group = 0; group < groups.size(); ++group) {
      const uint64_t rows = groups[group].rows;
      if (rows > kMaxParquetRows || this->rows() + rows > kMaxParquetRows) {
        return absl::DataLossError(absl::StrCat(path(), ": more than 2^32 rows in row group ",
                                                group, "; the file is damaged"));
      }
      const uint64_t row_bytes = rows == 0 ? 1 : 1 + groups[group].bytes / rows;
      const uint64_t block_rows =
          std::min(kMaxBlockRows, std::max<uint64_t>(1, kBlockBytes / row_bytes));
      for (uint64_t first = 0; first < rows; first += block_rows) {
        const uint64_t count = std::min(block_rows, rows - first);
        places_.push_back({group, first});
        AddBlock({.rows = count, .bytes = count * row_bytes, .goes_on = first > 0});
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<RowTexts> ReadBlock(size_t block) const override {
    const auto& [group, first] = places_[block];
    RowTexts texts;
    ROLLCALL_ASSIGN_OR_RETURN(texts.text, file_->ReadRows(group, first, blocks()[block].rows));
    texts.first_row = first_row(block);
    texts.row_group = group;
    for (size_t begin = 0; begin < texts.text.size();) {
      const size_t end = texts.text.find('\n', begin);
      texts.rows.push_back({begin, end - begin, 0, end - begin > kMaxLineBytes});
      begin = end + 1;
    }
    return texts;
  }

 private:
  struct Place {
    size_t group;
    uint64_t first;  // row of it
  };

  const std::unique_ptr<const text::ParquetFile> file_;
  std::vector<Place> places_;  // of the blocks
};

}  // namespace

bool IsParquet(std::string_view path) { return path.ends_with(".parquet"); }

absl::Status RowTexts::Parse(const std::string& path, size_t index, const OnJsonRow& on_row) const {
  const Row& row = rows[index];
  const RowPlace place{
      .path = path, .line = row.line, .row = first_row + index, .row_group = row_group};
  if (row.too_long) return on_row(place, TooLongLine(place));
  return on_row(place, ParseRow(place, std::string_view(text).substr(row.begin, row.size)));
}

void RowFile::AddBlock(RowBlock block) {
  blocks_.push_back(block);
  first_rows_.push_back(rows_);
  rows_ += block.rows;
}

absl::StatusOr<std::unique_ptr<const RowFile>> OpenJsonl(const std::string& path,
                                                         bool skips_bad_rows) {
  auto file = std::make_unique<JsonlRows>(path);
  ROLLCALL_RETURN_IF_ERROR(file->Scan(skips_bad_rows));
  return file;
}

absl::StatusOr<std::unique_ptr<const RowFile>> OpenParquet(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(auto opened, text::ParquetFile::Open(path));
  auto file = std::make_unique<ParquetRows>(path, std::move(opened));
  ROLLCALL_RETURN_IF_ERROR(file->Index());
  return file;
}

absl::Status ForEachParquetRow(const std::string& path, const OnJsonRow& on_row) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto file, OpenParquet(path));
  for (size_t block = 0; block < file->blocks().size(); ++block) {
    ROLLCALL_ASSIGN_OR_RETURN(const RowTexts texts, file->ReadBlock(block));
    for (size_t row = 0; row < texts.rows.size(); ++row) {
      ROLLCALL_RETURN_IF_ERROR(texts.Parse(path, row, on_row));
    }
  }
  return absl::OkStatus();
}

}  // namespace rollcall::learner
