#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// Divides sequences over ranks by their tokens: the longest first, each to the rank with the fewest
// tokens so far (of equal ones the first), so no two ranks differ by more than the longest sequence.
//
// lengths: tokens of each sequence. Returns rank's indices into it, ascending; every sequence
// belongs to exactly one rank, and a rank may have none. Pure: equal on every rank.
std::vector<size_t> ShareOfRank(std::span<const size_t> lengths, int rank, int ranks);

// The same of the sequences of `batch` at `places`: those of the rank.
std::vector<size_t> OwnSequences(const TrainBatch& batch, std::span<const size_t> places, int rank,
                                 int ranks);

// A batch of the rank's share of units of two sequences each (recorded pairs, and completions with
// their mismatched ones), divided by the tokens of both; no metrics.
TrainBatch OwnTwos(const TrainBatch& batch, int rank, int ranks);

}  // namespace rollcall::learner
