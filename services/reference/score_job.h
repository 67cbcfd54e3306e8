#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/batching/batch_queue.h"
#include "common/batching/score_job.h"

namespace rollcall::reference {

// One sequence to score: log-probs of token_ids[score_from..] given everything before each.
struct SequenceToScore {
  std::vector<uint32_t> token_ids;
  uint32_t score_from = 1;
};

// The answer for one sequence; one entry per token from score_from to the end.
struct ScoredSequence {
  std::vector<float> logprobs;   // nats, <= 0
  std::vector<float> entropies;  // nats, >= 0; empty unless asked for
};

struct ScoreMode {
  float temperature = 1;
  bool with_entropy = false;
  bool operator==(const ScoreMode&) const = default;
};

using ScoreJob = batching::ScoreJob<SequenceToScore, ScoredSequence, ScoreMode>;
using ScoreJobPtr = std::shared_ptr<ScoreJob>;
using Batch = batching::Batch<ScoreJob>;
using BatchQueue = batching::BatchQueue<ScoreJob>;

}  // namespace rollcall::reference
