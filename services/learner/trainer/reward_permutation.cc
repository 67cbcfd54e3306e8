#include "services/learner/trainer/reward_permutation.h"

#include <utility>
#include <vector>

#include "common/base/philox.h"

namespace rollcall::learner {
namespace {

// Streams of the run's seed for this purpose; the data order has those from 1 << 56.
constexpr uint64_t kFirstStream = uint64_t{2} << 56;

}  // namespace

void PermuteRewards(TrainBatch& batch, uint64_t run_seed, uint64_t step) {
  std::vector<std::optional<double>*> rewards;
  for (TrainSequence& sequence : batch.sequences) {
    if (sequence.reward.has_value()) rewards.push_back(&sequence.reward);
  }
  PhiloxStream stream(run_seed, kFirstStream + step);
  for (size_t count = rewards.size(); count > 1; --count) {
    std::swap(*rewards[count - 1], *rewards[stream.Below(count)]);
  }
}

}  // namespace rollcall::learner
