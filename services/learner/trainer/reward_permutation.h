#pragma once

#include <cstdint>

#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// The control experiment algorithm.shuffle_rewards: permutes the rewards of the batch's scored
// sequences at random, so that they say nothing about the completions. A pure function of
// (run_seed, step) and the ordered batch.
void PermuteRewards(TrainBatch& batch, uint64_t run_seed, uint64_t step);

}  // namespace rollcall::learner
