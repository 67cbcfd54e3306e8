#include "services/learner/batching/mini_batch.h"

#include <algorithm>

namespace rollcall::learner {
namespace {

bool EntersLoss(const TrainSequence& sequence, bool supervised) {
  if (!supervised && !sequence.reward.has_value()) return false;
  return std::any_of(sequence.loss_mask.begin(), sequence.loss_mask.end(),
                     [](uint8_t mask) { return mask != 0; });
}

}  // namespace

std::vector<std::vector<size_t>> SplitIntoMiniBatches(const TrainBatch& batch,
                                                      size_t mini_batches) {
  const bool supervised = batch.group_ids.empty();
  const size_t units = supervised ? batch.sequences.size() : batch.group_ids.size();
  const size_t parts = std::max<size_t>(1, std::min(mini_batches, units));
  std::vector<std::vector<size_t>> result(parts);
  size_t group = 0;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    if (!supervised) {
      while (batch.group_ids[group] != batch.sequences[i].group_id) ++group;
    }
    const size_t unit = supervised ? i : group;
    if (!EntersLoss(batch.sequences[i], supervised)) continue;
    result[unit * parts / units].push_back(i);
  }
  return result;
}

}  // namespace rollcall::learner
