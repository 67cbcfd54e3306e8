#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/data/left_out_rows.h"
#include "services/learner/data/mixture_order.h"
#include "services/learner/data/row_policy.h"
#include "services/learner/data/row_stream.h"
#include "services/learner/data/source_files.h"

namespace rollcall::learner {

// What a stage learns from, one example a row: demonstrations, pairs, labelled completions, prompts.
// The example at an ordinal is a pure function of (files, seed, ordinal). Thread-safe.
template <typename T>
class Examples {
 public:
  virtual ~Examples() = default;

  struct Drawn {
    std::shared_ptr<const T> example;
    uint64_t epoch = 0;  // of its source
  };
  // May block on the disk. Errors end the run: a file that cannot be read any more, or a row that
  // the configuration does not say to leave out.
  virtual absl::StatusOr<Drawn> At(uint64_t ordinal) const = 0;

  // In passes over as many rows as there are.
  virtual uint64_t EpochOf(uint64_t ordinal) const = 0;
  virtual uint64_t rows() const = 0;
  // Of the files, or, where rows are read as their turn comes, of the draws so far.
  virtual LeftOutRows left_out() const = 0;
  virtual bool streamed() const = 0;
};

// Examples that are in memory, in their uniformly shuffled order.
template <typename T>
class LoadedExamples final : public Examples<T> {
 public:
  // At least one row.
  LoadedExamples(std::shared_ptr<const std::vector<T>> rows, uint64_t seed, bool shuffle,
                 const std::vector<SourceRows>& sources, const LeftOutRows& left_out)
      : rows_(std::move(rows)),
        order_(seed, rows_->size(), shuffle, sources),
        left_out_(left_out) {}

  absl::StatusOr<typename Examples<T>::Drawn> At(uint64_t ordinal) const override {
    const MixtureOrder::Draw draw = order_.At(ordinal);
    return typename Examples<T>::Drawn{{rows_, &(*rows_)[draw.row]}, draw.epoch};
  }
  uint64_t EpochOf(uint64_t ordinal) const override { return order_.EpochOf(ordinal); }
  uint64_t rows() const override { return order_.rows(); }
  LeftOutRows left_out() const override { return left_out_; }
  bool streamed() const override { return false; }

 private:
  const std::shared_ptr<const std::vector<T>> rows_;
  const MixtureOrder order_;
  const LeftOutRows left_out_;
};

// A Reader turns rows into examples:
//   using Example = …;
//   absl::StatusOr<Example> Read(const RowPlace&, const nlohmann::json& row) const;
//   absl::Status CheckLength(const RowPlace&, const Example&) const;
//   absl::StatusOr<bool> Truncate(Example&) const;  // to what CheckLength allows; false: it cannot
//   void SetSource(Example&, uint32_t source) const;

// The example of a row; nothing where `policy` leaves the row out, which it has counted then.
template <typename Reader>
absl::StatusOr<std::optional<typename Reader::Example>> ReadUsable(
    const Reader& reader, RowPolicy& policy, uint32_t source, const RowPlace& place,
    const absl::StatusOr<nlohmann::json>& row) {
  if (!row.ok()) {
    ROLLCALL_RETURN_IF_ERROR(policy.OnBadRow(row.status()));
    return std::nullopt;
  }
  absl::StatusOr<typename Reader::Example> example = reader.Read(place, *row);
  if (!example.ok()) {
    ROLLCALL_RETURN_IF_ERROR(policy.OnBadRow(example.status()));
    return std::nullopt;
  }
  if (const absl::Status fits = reader.CheckLength(place, *example); !fits.ok()) {
    bool cut = false;
    if (policy.truncates()) {
      ROLLCALL_ASSIGN_OR_RETURN(cut, reader.Truncate(*example));
    }
    if (!cut) {
      ROLLCALL_RETURN_IF_ERROR(policy.OnLongRow(fits));
      return std::nullopt;
    }
    policy.CountTruncated(fits);
  }
  reader.SetSource(*example, source);
  return *std::move(example);
}

// Examples that are read and tokenised when their turn comes (RowStream). A row that is left out is
// replaced by the next one that is not, which is then visited once more than others in that epoch;
// so an ordinal always has an example, and nothing but the ordinal need be kept to resume.
template <typename Reader>
class StreamedExamples final : public Examples<typename Reader::Example> {
 public:
  using Example = typename Reader::Example;
  using Drawn = typename Examples<Example>::Drawn;

  StreamedExamples(const v1::DataSection& data, std::unique_ptr<const RowStream> stream,
                   Reader reader)
      : stream_(std::move(stream)), reader_(std::move(reader)), policy_(data) {}

  absl::StatusOr<Drawn> At(uint64_t ordinal) const override {
    // So many in a row leave no doubt that the files are not what the configuration says.
    constexpr uint64_t kTries = 1000;
    Drawn drawn;
    for (uint64_t next = ordinal; next < ordinal + kTries; ++next) {
      const auto on_row = [&](const RowStream::Draw& draw, const RowPlace& place,
                              const absl::StatusOr<nlohmann::json>& row) -> absl::Status {
        ROLLCALL_ASSIGN_OR_RETURN(auto example,
                                  ReadUsable(reader_, policy_, draw.source, place, row));
        if (!example.has_value()) return absl::OkStatus();
        drawn = {std::make_shared<const Example>(*std::move(example)), draw.epoch};
        return absl::OkStatus();
      };
      ROLLCALL_RETURN_IF_ERROR(stream_->Visit(next, on_row));
      if (drawn.example != nullptr) return drawn;
    }
    return absl::InvalidArgumentError(absl::StrCat(
        kTries, " rows one after another cannot be used: ", policy_.left_out().unreadable,
        " skipped and ", policy_.left_out().too_long,
        " dropped for their length so far; see the first of them in the log"));
  }
  uint64_t EpochOf(uint64_t ordinal) const override { return stream_->EpochOf(ordinal); }
  uint64_t rows() const override { return stream_->rows(); }
  LeftOutRows left_out() const override { return policy_.left_out(); }
  bool streamed() const override { return true; }

 private:
  const std::unique_ptr<const RowStream> stream_;
  const Reader reader_;
  mutable RowPolicy policy_;
};

// Examples of files, in the files' order.
template <typename T>
struct ExampleSet {
  std::vector<T> rows;
  // Of the files in turn, where they have weights; else empty.
  std::vector<SourceRows> sources;
  LeftOutRows left_out;
};

// Reads all files into memory. Statuses of ReadSources and the reader.
template <typename Reader>
absl::StatusOr<ExampleSet<typename Reader::Example>> LoadExamples(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const Reader& reader) {
  RowPolicy policy(data);
  ExampleSet<typename Reader::Example> set;
  const auto on_row = [&](int source, const RowPlace& place,
                          const absl::StatusOr<nlohmann::json>& row) -> absl::Status {
    ROLLCALL_ASSIGN_OR_RETURN(
        auto example, ReadUsable(reader, policy, static_cast<uint32_t>(source), place, row));
    if (example.has_value()) set.rows.push_back(*std::move(example));
    return absl::OkStatus();
  };
  ROLLCALL_ASSIGN_OR_RETURN(set.sources,
                            ReadSources(sources, policy, on_row, [&] { return set.rows.size(); }));
  set.left_out = policy.left_out();
  return set;
}

// Files whose text takes more than this are read as their rows' turn comes. Up to here all rows are
// read, tokenised and checked before a run begins, and any row may follow any other; that takes up
// to three times as much memory.
inline constexpr uint64_t kMemoryBytes = uint64_t{256} << 20;

// Examples of files, in memory or streamed by what the files take. `data` must outlive them. `check`
// may refuse what is in memory as a whole. Statuses of LoadExamples and `check`, or of
// RowStream::Open.
template <typename Reader>
absl::StatusOr<std::shared_ptr<const Examples<typename Reader::Example>>> OpenExamples(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    Reader reader, uint64_t seed, uint64_t memory_bytes,
    const std::function<absl::Status(const ExampleSet<typename Reader::Example>&)>& check = {}) {
  using Example = typename Reader::Example;
  using Result = std::shared_ptr<const Examples<Example>>;
  ROLLCALL_ASSIGN_OR_RETURN(const uint64_t bytes, TextBytes(sources));
  if (bytes > memory_bytes) {
    ROLLCALL_ASSIGN_OR_RETURN(auto stream, RowStream::Open(data, sources, seed));
    return Result(std::make_shared<const StreamedExamples<Reader>>(data, std::move(stream),
                                                                   std::move(reader)));
  }
  ROLLCALL_ASSIGN_OR_RETURN(auto loaded, LoadExamples(data, sources, reader));
  if (check) ROLLCALL_RETURN_IF_ERROR(check(loaded));
  const auto set = std::make_shared<const ExampleSet<Example>>(std::move(loaded));
  return Result(std::make_shared<const LoadedExamples<Example>>(
      std::shared_ptr<const std::vector<Example>>(set, &set->rows), seed, data.shuffle(),
      set->sources, set->left_out));
}

// The examples at `count` ordinals from `first` on. Metrics: data/epoch, and of streamed ones
// data/skipped, data/dropped and data/truncated, rows that were left out, or not left whole, on the
// way. Statuses of At. One thread at a time.
template <typename T>
absl::StatusOr<std::vector<std::shared_ptr<const T>>> DrawBatch(
    const Examples<T>& examples, uint64_t first, uint64_t count,
    std::map<std::string, double>& metrics) {
  const LeftOutRows before = examples.left_out();
  std::vector<std::shared_ptr<const T>> batch;
  for (uint64_t ordinal = first; ordinal < first + count; ++ordinal) {
    ROLLCALL_ASSIGN_OR_RETURN(auto drawn, examples.At(ordinal));
    batch.push_back(std::move(drawn.example));
  }
  metrics["data/epoch"] = static_cast<double>(examples.EpochOf(first));
  if (!examples.streamed()) return batch;
  const LeftOutRows after = examples.left_out();
  metrics["data/skipped"] = static_cast<double>(after.unreadable - before.unreadable);
  metrics["data/dropped"] = static_cast<double>(after.too_long - before.too_long);
  metrics["data/truncated"] = static_cast<double>(after.truncated - before.truncated);
  return batch;
}

}  // namespace rollcall::learner
