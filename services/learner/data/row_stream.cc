#include "services/learner/data/row_stream.h"

#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/source_files.h"

namespace rollcall::learner {
namespace {

using Sources = google::protobuf::RepeatedPtrField<v1::DataSource>;

// A batch that straddles two windows, and the one read ahead behind it.
constexpr size_t kWindowsKept = 2;

absl::Status NoRows(const std::string& path) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": expected at least one row"));
}

}  // namespace

absl::StatusOr<uint64_t> TextBytes(const Sources& sources) {
  uint64_t bytes = 0;
  for (const v1::DataSource& source : sources) {
    if (IsParquet(source.path())) {
      ROLLCALL_ASSIGN_OR_RETURN(const auto file, OpenParquet(source.path()));
      for (const RowBlock& block : file->blocks()) bytes += block.bytes;
      continue;
    }
    struct stat about {};
    // A file that is not there is an error where it is read.
    if (stat(source.path().c_str(), &about) == 0) bytes += static_cast<uint64_t>(about.st_size);
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<const RowStream>> RowStream::Open(const v1::DataSection& data,
                                                                 const Sources& sources,
                                                                 uint64_t seed) {
  ROLLCALL_ASSIGN_OR_RETURN(const bool weighted, HaveWeights(sources));
  const bool skips = data.on_bad_row() == v1::BAD_ROW_SKIP;
  std::vector<std::unique_ptr<const RowFile>> files;
  std::vector<double> weights;
  uint64_t rows = 0;
  for (const v1::DataSource& source : sources) {
    ROLLCALL_ASSIGN_OR_RETURN(
        std::unique_ptr<const RowFile> file,
        IsParquet(source.path()) ? OpenParquet(source.path()) : OpenJsonl(source.path(), skips));
    if (weighted) {
      if (file->rows() == 0) return NoRows(source.path());
      weights.push_back(source.weight());
    }
    rows += file->rows();
    files.push_back(std::move(file));
  }
  if (rows == 0) return NoRows(sources.empty() ? "an empty list of files" : sources[0].path());
  return std::unique_ptr<const RowStream>(
      new RowStream(std::move(files), weights, seed, data.shuffle()));
}

RowStream::RowStream(std::vector<std::unique_ptr<const RowFile>> files,
                     const std::vector<double>& weights, uint64_t seed, bool shuffle)
    : files_(std::move(files)), turns_(weights), sources_(std::max<size_t>(1, weights.size())) {
  for (uint32_t file = 0; file < files_.size(); ++file) {
    sources_[weights.empty() ? 0 : file].files.push_back(file);
    rows_ += files_[file]->rows();
  }
  for (size_t index = 0; index < sources_.size(); ++index) {
    Source& source = sources_[index];
    std::vector<RowBlock> blocks;
    for (const uint32_t file : source.files) {
      for (size_t block = 0; block < files_[file]->blocks().size(); ++block) {
        blocks.push_back(files_[file]->blocks()[block]);
        source.blocks.emplace_back(file, block);
      }
    }
    source.order = std::make_unique<BlockOrder>(seed, std::move(blocks), shuffle, index);
  }
}

absl::StatusOr<std::shared_ptr<const RowStream::LoadedWindow>> RowStream::WindowOf(
    Source& source, uint64_t ordinal) const {
  for (const auto& loaded : source.recent) {
    const uint64_t first = loaded->window.first_ordinal;
    if (ordinal >= first && ordinal - first < loaded->window.order.size()) return loaded;
  }
  // Dropped first, so that no third one is in memory.
  if (source.recent.size() == kWindowsKept) source.recent.pop_back();
  auto loaded = std::make_shared<LoadedWindow>();
  loaded->window = source.order->WindowOf(ordinal);
  uint64_t rows = 0;
  for (const size_t block : loaded->window.blocks) {
    const auto& [file, block_of_file] = source.blocks[block];
    ROLLCALL_ASSIGN_OR_RETURN(RowTexts texts, files_[file]->ReadBlock(block_of_file));
    loaded->files.push_back(file);
    loaded->first_row.push_back(rows);
    rows += texts.rows.size();
    loaded->texts.push_back(std::move(texts));
  }
  if (rows != loaded->window.order.size()) {
    return absl::InternalError("a window of rows has other rows than its blocks");
  }
  source.recent.push_front(loaded);
  return loaded;
}

absl::Status RowStream::Visit(uint64_t ordinal, const OnRow& on_row) const {
  std::shared_ptr<const LoadedWindow> loaded;
  uint64_t row;
  {
    absl::MutexLock lock(&mutex_);
    const SourceTurns::Turn turn = turns_.At(ordinal);
    ROLLCALL_ASSIGN_OR_RETURN(loaded, WindowOf(sources_[turn.source], turn.ordinal));
    row = loaded->window.order[turn.ordinal - loaded->window.first_ordinal];
  }
  const auto& first_row = loaded->first_row;
  const auto next = std::upper_bound(first_row.begin(), first_row.end(), row);
  const auto block = static_cast<size_t>(next - first_row.begin()) - 1;
  const uint32_t file = loaded->files[block];
  const Draw draw{.epoch = loaded->window.epoch, .source = file};
  return loaded->texts[block].Parse(
      files_[file]->path(), row - first_row[block],
      [&](const RowPlace& place, absl::StatusOr<nlohmann::json> value) {
        return on_row(draw, place, std::move(value));
      });
}

}  // namespace rollcall::learner
