#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace rollcall::learner {

// The order in which the rows of a data set are visited, epoch after epoch: the row at an ordinal
// is a pure function of (seed, rows, ordinal), so the ordinal alone is all that a resumed run
// needs. Every epoch visits every row once, in its own uniformly drawn order (Fisher and Yates over
// a Philox stream), or in file order without shuffling. Thread-safe.
class EpochOrder {
 public:
  // rows >= 1. Data sets of one run that differ in `source` (below 2^16) are shuffled
  // independently of each other.
  EpochOrder(uint64_t seed, uint64_t rows, bool shuffle, uint64_t source = 0)
      : seed_(seed), rows_(rows), shuffle_(shuffle), source_(source) {}

  uint64_t RowAt(uint64_t ordinal) const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t EpochOf(uint64_t ordinal) const { return ordinal / rows_; }
  uint64_t rows() const { return rows_; }

 private:
  using Permutation = std::shared_ptr<const std::vector<uint64_t>>;

  Permutation PermutationOf(uint64_t epoch) const ABSL_LOCKS_EXCLUDED(mutex_);

  const uint64_t seed_;
  const uint64_t rows_;
  const bool shuffle_;
  const uint64_t source_;

  mutable absl::Mutex mutex_;
  // The last two epochs asked for: groups in flight straddle the boundary between epochs.
  mutable std::deque<std::pair<uint64_t, Permutation>> recent_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rollcall::learner
