#include "services/learner/batching/rank_share.h"

#include <algorithm>
#include <numeric>

namespace rollcall::learner {

std::vector<size_t> ShareOfRank(std::span<const size_t> lengths, int rank, int ranks) {
  std::vector<size_t> longest_first(lengths.size());
  std::iota(longest_first.begin(), longest_first.end(), size_t{0});
  if (ranks == 1) return longest_first;
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](size_t a, size_t b) { return lengths[a] > lengths[b]; });
  std::vector<size_t> tokens(static_cast<size_t>(ranks));
  std::vector<size_t> own;
  for (const size_t index : longest_first) {
    const auto least = std::min_element(tokens.begin(), tokens.end());
    *least += lengths[index];
    if (least - tokens.begin() == rank) own.push_back(index);
  }
  std::sort(own.begin(), own.end());
  return own;
}

std::vector<size_t> OwnSequences(const TrainBatch& batch, std::span<const size_t> places, int rank,
                                 int ranks) {
  std::vector<size_t> lengths;
  for (const size_t place : places) lengths.push_back(batch.sequences[place].token_ids.size());
  std::vector<size_t> own = ShareOfRank(lengths, rank, ranks);
  for (size_t& index : own) index = places[index];
  return own;
}

TrainBatch OwnTwos(const TrainBatch& batch, int rank, int ranks) {
  std::vector<size_t> lengths;
  for (size_t i = 0; i + 1 < batch.sequences.size(); i += 2) {
    lengths.push_back(batch.sequences[i].token_ids.size() +
                      batch.sequences[i + 1].token_ids.size());
  }
  TrainBatch own;
  for (const size_t unit : ShareOfRank(lengths, rank, ranks)) {
    own.sequences.push_back(batch.sequences[2 * unit]);
    own.sequences.push_back(batch.sequences[2 * unit + 1]);
  }
  return own;
}

}  // namespace rollcall::learner
