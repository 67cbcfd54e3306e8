#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/batching/batch_queue.h"
#include "common/batching/score_job.h"

namespace rollcall::reward {

// A prompt and a completion, end to end.
struct SequenceToScore {
  std::vector<uint32_t> token_ids;
};

// Every sequence may share a forward pass with every other.
struct AnyMode {
  bool operator==(const AnyMode&) const = default;
};

// One Score call's sequences; the answer to each is its score, which may be NaN.
using ModelJob = batching::ScoreJob<SequenceToScore, float, AnyMode>;
using ModelBatch = batching::Batch<ModelJob>;
using ModelQueue = batching::BatchQueue<ModelJob>;

}  // namespace rollcall::reward
