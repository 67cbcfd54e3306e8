#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "services/learner/data/epoch_order.h"

namespace rollcall::learner {

// Consecutive rows of a data set that came from one file, and their share of what is drawn.
struct SourceRows {
  uint64_t rows = 0;
  double weight = 0;
};

// Whose turn it is to give a row: the sources take turns evenly by weight. Among the first n draws,
// those of the first k sources together are their share of n rounded up, for every n and k up to
// rounding once per source. So every batch has nearly the same mixture. Immutable.
class SourceTurns {
 public:
  // Without weights there is one source; else each is > 0.
  explicit SourceTurns(const std::vector<double>& weights);

  struct Turn {
    size_t source = 0;
    uint64_t ordinal = 0;  // of the source's own draws
  };
  Turn At(uint64_t ordinal) const;

 private:
  // Of the draws that earlier sources leave, how many of 2^32 are each source's.
  std::vector<uint64_t> shares_;
};

// The order in which the rows of several sources are visited: the row at an ordinal is a pure
// function of (seed, sources, ordinal). Each source is visited epoch after epoch in its own order
// (EpochOrder), and the sources take turns (SourceTurns). Thread-safe.
class MixtureOrder {
 public:
  // rows >= 1. Without `sources` the rows are one source; with them, their rows add up to `rows`
  // and each has at least one row and a weight > 0.
  MixtureOrder(uint64_t seed, uint64_t rows, bool shuffle, const std::vector<SourceRows>& sources);

  struct Draw {
    uint64_t row = 0;    // in the whole set
    uint64_t epoch = 0;  // of its source
  };
  Draw At(uint64_t ordinal) const;

  // In passes over as many rows as the set has.
  uint64_t EpochOf(uint64_t ordinal) const { return ordinal / rows_; }
  uint64_t rows() const { return rows_; }

 private:
  struct Source {
    uint64_t first_row;
    std::unique_ptr<const EpochOrder> order;
  };

  const uint64_t rows_;
  const SourceTurns turns_;
  std::vector<Source> sources_;  // constant after construction
};

}  // namespace rollcall::learner
