#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

namespace rollcall::learner {

// Some consecutive rows of a file, read together.
struct RowBlock {
  uint64_t rows = 0;
  // About what they take in memory.
  uint64_t bytes = 0;
  // It is read cheaply only right behind the block before it (within a Parquet row group).
  bool goes_on = false;
};

// The order in which the rows of files are visited that are too large to jump about in, epoch after
// epoch: a pure function of (seed, blocks, ordinal), so the ordinal alone is all that a resumed run
// needs. Every epoch visits every row once. Runs of blocks (one that does not go on, and those that
// go on behind it) take uniformly drawn places; the blocks then make up windows of about 16 MiB, and
// the rows of a window are visited in uniformly drawn order. So rows near each other in the file may
// be far apart, and a window of text is all that need be in memory. Without shuffling, file order.
// Not thread-safe.
class BlockOrder {
 public:
  // At least one row. Data sets of one run that differ in `source` (below 2^16) are shuffled
  // independently of each other.
  BlockOrder(uint64_t seed, std::vector<RowBlock> blocks, bool shuffle, uint64_t source);

  struct Window {
    uint64_t epoch = 0;
    uint64_t first_ordinal = 0;
    std::vector<size_t> blocks;  // in the order in which they are best read
    // The row visited at first_ordinal + i is the order[i]-th of these blocks' rows together.
    std::vector<uint32_t> order;
  };
  // The window that visits the row at `ordinal`. A new object, some milliseconds of work, wherever
  // the epoch is not that of this call's predecessors.
  Window WindowOf(uint64_t ordinal) const;

  uint64_t EpochOf(uint64_t ordinal) const { return ordinal / rows_; }
  uint64_t rows() const { return rows_; }

 private:
  // The blocks of an epoch in order, and where its windows begin.
  struct Plan {
    std::vector<size_t> blocks;
    std::vector<size_t> window_blocks;  // index into `blocks` of each window's first
    std::vector<uint64_t> window_rows;  // visited before each window
  };
  std::shared_ptr<const Plan> PlanOf(uint64_t epoch) const;
  Plan MakePlan(uint64_t epoch) const;

  const uint64_t seed_;
  const std::vector<RowBlock> blocks_;
  const bool shuffle_;
  const uint64_t source_;
  uint64_t rows_ = 0;
  // The last two epochs asked for.
  mutable std::deque<std::pair<uint64_t, std::shared_ptr<const Plan>>> recent_;
};

}  // namespace rollcall::learner
