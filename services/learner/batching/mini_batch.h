#pragma once

#include <cstddef>
#include <vector>

#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// Divides a batch that CheckBatch accepts into mini-batches, one optimizer step each: whole groups
// in order, as evenly as their number allows (sizes differ by at most one group), never more
// mini-batches than groups. Supervised sequences count as groups of one.
//
// Returns indices into batch.sequences, ascending. Sequences with nothing in the loss are left out;
// a mini-batch may therefore be empty.
std::vector<std::vector<size_t>> SplitIntoMiniBatches(const TrainBatch& batch, size_t mini_batches);

}  // namespace rollcall::learner
