#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/data/block_order.h"
#include "services/learner/data/mixture_order.h"
#include "services/learner/data/row_file.h"

namespace rollcall::learner {

// What the files of `sources` take in memory as text, in bytes, without reading them. Statuses of
// LineReader and OpenParquet.
absl::StatusOr<uint64_t> TextBytes(
    const google::protobuf::RepeatedPtrField<v1::DataSource>& sources);

// The endless sequence of the rows of files too large for memory: the row at an ordinal is a pure
// function of (seed, files, ordinal). Files without weights are one source, else each is one and
// they take turns (SourceTurns); each source is visited as BlockOrder says. In memory are the text
// of two windows of each source. Thread-safe; one row at a time.
class RowStream {
 public:
  // Opens every file, which passes over JSONL once. INVALID_ARGUMENT: weights on some files only, a
  // file (of those with weights) or all of them without a row; else the statuses of OpenJsonl and
  // OpenParquet.
  static absl::StatusOr<std::unique_ptr<const RowStream>> Open(
      const v1::DataSection& data,
      const google::protobuf::RepeatedPtrField<v1::DataSource>& sources, uint64_t seed);

  struct Draw {
    uint64_t epoch = 0;   // of its source
    uint32_t source = 0;  // index of its file
  };
  using OnRow = std::function<absl::Status(const Draw& draw, const RowPlace& place,
                                           absl::StatusOr<nlohmann::json> row)>;
  // Calls `on_row` with the row at `ordinal` and returns what it returns. Statuses of ReadBlock.
  absl::Status Visit(uint64_t ordinal, const OnRow& on_row) const ABSL_LOCKS_EXCLUDED(mutex_);

  // In passes over as many rows as the files have.
  uint64_t EpochOf(uint64_t ordinal) const { return ordinal / rows_; }
  uint64_t rows() const { return rows_; }

 private:
  struct LoadedWindow {
    BlockOrder::Window window;
    std::vector<uint32_t> files;      // of each block
    std::vector<RowTexts> texts;      // of each block
    std::vector<uint64_t> first_row;  // of each block, within the window
  };
  struct Source {
    std::vector<uint32_t> files;                      // indices into files_
    std::vector<std::pair<uint32_t, size_t>> blocks;  // file and block of it
    std::unique_ptr<const BlockOrder> order;
    std::deque<std::shared_ptr<const LoadedWindow>> recent;
  };

  RowStream(std::vector<std::unique_ptr<const RowFile>> files, const std::vector<double>& weights,
            uint64_t seed, bool shuffle);

  absl::StatusOr<std::shared_ptr<const LoadedWindow>> WindowOf(Source& source,
                                                               uint64_t ordinal) const;

  const std::vector<std::unique_ptr<const RowFile>> files_;
  const SourceTurns turns_;
  uint64_t rows_ = 0;
  // Held while a window is read, too: whoever asks for a row meanwhile most likely waits for the same
  // window, and a Parquet file is read by one thread at a time.
  mutable absl::Mutex mutex_;
  mutable std::vector<Source> sources_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
