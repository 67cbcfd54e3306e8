#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// The sequences of one micro-batch laid end to end, without padding, and the tokens of them that
// enter the loss.
struct PackedBatch {
  // Index of each packed sequence in the batch it came from.
  std::vector<size_t> sequences;

  // [tokens]
  std::vector<int64_t> token_ids;
  // [tokens], 0 at each sequence's first token.
  std::vector<int64_t> positions;
  // [sequences + 1]: sequence i holds rows [cu_seqlens[i], cu_seqlens[i + 1]).
  std::vector<int64_t> cu_seqlens;

  // [loss tokens] each, sequence after sequence.
  // Row whose output predicts the token: the row before it.
  std::vector<int64_t> rows;
  std::vector<int64_t> targets;
  // Place of the token's sequence in `sequences`.
  std::vector<size_t> sequence_of;
  // Nats; empty where the batch has none.
  std::vector<float> behavior_logprobs;
  std::vector<float> reference_logprobs;

  // [sequences]: tokens in the loss of each.
  std::vector<int64_t> token_counts;
};

// Packs the sequences of `batch` that `indices` names, in that order. The batch must be one that
// CheckBatch accepts.
PackedBatch Pack(const TrainBatch& batch, std::span<const size_t> indices);

}  // namespace rollcall::learner
