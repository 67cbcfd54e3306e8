#include "services/learner/batching/packed_batch.h"

namespace rollcall::learner {

PackedBatch Pack(const TrainBatch& batch, std::span<const size_t> indices) {
  PackedBatch packed;
  packed.cu_seqlens.push_back(0);
  for (const size_t index : indices) {
    const TrainSequence& sequence = batch.sequences[index];
    const int64_t first_row = packed.cu_seqlens.back();
    int64_t count = 0;
    for (size_t i = 0; i < sequence.token_ids.size(); ++i) {
      packed.token_ids.push_back(sequence.token_ids[i]);
      packed.positions.push_back(static_cast<int64_t>(i));
      if (sequence.loss_mask[i] == 0) continue;
      packed.rows.push_back(first_row + static_cast<int64_t>(i) - 1);
      packed.targets.push_back(sequence.token_ids[i]);
      packed.sequence_of.push_back(packed.sequences.size());
      if (!sequence.behavior_logprobs.empty()) {
        packed.behavior_logprobs.push_back(sequence.behavior_logprobs[i]);
      }
      if (!sequence.reference_logprobs.empty()) {
        packed.reference_logprobs.push_back(sequence.reference_logprobs[i]);
      }
      ++count;
    }
    packed.sequences.push_back(index);
    packed.cu_seqlens.push_back(first_row + static_cast<int64_t>(sequence.token_ids.size()));
    packed.token_counts.push_back(count);
  }
  return packed;
}

}  // namespace rollcall::learner
