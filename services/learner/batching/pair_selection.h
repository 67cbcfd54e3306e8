#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// Two completions of one prompt, as indices into batch.sequences.
struct SequencePair {
  size_t chosen = 0;
  size_t rejected = 0;
};

struct SelectedPairs {
  // In the order of the groups, at most one a group.
  std::vector<SequencePair> pairs;
  // Groups without a pair: both rewards equal, or fewer than two usable samples.
  size_t tied_groups = 0;
  size_t incomplete_groups = 0;
};

// The pair of each group of a batch that CheckBatch accepts: its best against its worst sample (of
// equal ones the first), or its first two, the better one chosen. Samples without a reward or with
// nothing in the loss are not looked at. Online DPO, arXiv 2402.04792, section 3; a tie says nothing
// and is left out, where TRL prefers the first.
//
// rewards: one per sequence of the batch, not set where it has none.
SelectedPairs SelectPairs(const TrainBatch& batch,
                          const std::vector<std::optional<double>>& rewards, bool first_two);

}  // namespace rollcall::learner
