#include "services/learner/batching/pair_selection.h"

#include <algorithm>

namespace rollcall::learner {
namespace {

bool EntersLoss(const TrainSequence& sequence) {
  return std::any_of(sequence.loss_mask.begin(), sequence.loss_mask.end(),
                     [](uint8_t mask) { return mask != 0; });
}

}  // namespace

SelectedPairs SelectPairs(const TrainBatch& batch,
                          const std::vector<std::optional<double>>& rewards, bool first_two) {
  SelectedPairs selected;
  size_t next = 0;
  for (const uint64_t group : batch.group_ids) {
    std::vector<size_t> usable;
    for (; next < batch.sequences.size() && batch.sequences[next].group_id == group; ++next) {
      if (rewards[next].has_value() && EntersLoss(batch.sequences[next])) usable.push_back(next);
    }
    if (usable.size() < 2) {
      ++selected.incomplete_groups;
      continue;
    }
    if (first_two) usable.resize(2);
    const auto less = [&](size_t a, size_t b) { return *rewards[a] < *rewards[b]; };
    const size_t best = *std::max_element(usable.begin(), usable.end(), less);
    const size_t worst = *std::min_element(usable.begin(), usable.end(), less);
    if (*rewards[best] == *rewards[worst]) {
      ++selected.tied_groups;
      continue;
    }
    selected.pairs.push_back({.chosen = best, .rejected = worst});
  }
  return selected;
}

}  // namespace rollcall::learner
