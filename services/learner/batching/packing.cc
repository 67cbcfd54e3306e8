#include "services/learner/batching/packing.h"

#include <algorithm>
#include <numeric>

namespace rollcall::learner {

std::vector<std::vector<size_t>> PackByTokens(std::span<const size_t> lengths,
                                              size_t token_budget) {
  std::vector<size_t> longest_first(lengths.size());
  std::iota(longest_first.begin(), longest_first.end(), size_t{0});
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](size_t a, size_t b) { return lengths[a] > lengths[b]; });

  std::vector<std::vector<size_t>> micro_batches;
  std::vector<size_t> room;
  for (const size_t index : longest_first) {
    const size_t length = lengths[index];
    const auto fit =
        std::find_if(room.begin(), room.end(), [&](size_t left) { return left >= length; });
    if (fit == room.end()) {
      micro_batches.push_back({index});
      room.push_back(token_budget > length ? token_budget - length : 0);
    } else {
      micro_batches[static_cast<size_t>(fit - room.begin())].push_back(index);
      *fit -= length;
    }
  }
  for (auto& micro_batch : micro_batches) std::sort(micro_batch.begin(), micro_batch.end());
  std::sort(micro_batches.begin(), micro_batches.end(),
            [](const auto& a, const auto& b) { return a.front() < b.front(); });
  return micro_batches;
}

std::vector<std::vector<size_t>> PackTwosByTokens(std::span<const size_t> lengths,
                                                  size_t token_budget) {
  std::vector<size_t> of_units;
  for (size_t i = 0; i + 1 < lengths.size(); i += 2)
    of_units.push_back(lengths[i] + lengths[i + 1]);
  std::vector<std::vector<size_t>> micro_batches;
  for (const std::vector<size_t>& units : PackByTokens(of_units, token_budget)) {
    std::vector<size_t>& places = micro_batches.emplace_back();
    for (const size_t unit : units) places.insert(places.end(), {2 * unit, 2 * unit + 1});
  }
  return micro_batches;
}

}  // namespace rollcall::learner
