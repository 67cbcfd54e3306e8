#include "services/learner/data/mixture_order.h"

#include <algorithm>
#include <cmath>

namespace rollcall::learner {
namespace {

constexpr int kShareBits = 32;
constexpr uint64_t kWhole = uint64_t{1} << kShareBits;

// How many of the first `draws` a share takes: the share rounded up, so the first draw is its own.
uint64_t Taken(uint64_t draws, uint64_t share) {
  // In halves, for the product may have 97 bits.
  const uint64_t low = (draws % kWhole) * share;
  return (draws >> kShareBits) * share + (low >> kShareBits) + (low % kWhole != 0 ? 1 : 0);
}

}  // namespace

MixtureOrder::MixtureOrder(uint64_t seed, uint64_t rows, bool shuffle,
                           const std::vector<SourceRows>& sources)
    : rows_(rows) {
  if (sources.empty()) {
    sources_.push_back({0, kWhole, std::make_unique<EpochOrder>(seed, rows, shuffle)});
    return;
  }
  uint64_t first_row = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    double left = 0;  // weight of this source and those after it
    for (size_t later = i; later < sources.size(); ++later) left += sources[later].weight;
    const double part = sources[i].weight / left * static_cast<double>(kWhole);
    // Never 0: a source that is named is visited.
    const uint64_t share =
        i + 1 == sources.size()
            ? kWhole
            : std::clamp(static_cast<uint64_t>(std::llround(part)), uint64_t{1}, kWhole - 1);
    sources_.push_back(
        {first_row, share, std::make_unique<EpochOrder>(seed, sources[i].rows, shuffle, i)});
    first_row += sources[i].rows;
  }
}

MixtureOrder::Draw MixtureOrder::At(uint64_t ordinal) const {
  // Each source in turn takes its share of the draws that are left, or passes this one on.
  for (const Source& source : sources_) {
    const uint64_t taken = Taken(ordinal, source.share);
    if (Taken(ordinal + 1, source.share) > taken) {
      return {source.first_row + source.order->RowAt(taken), source.order->EpochOf(taken)};
    }
    ordinal -= taken;
  }
  return {};  // not reached: the last source takes every draw
}

}  // namespace rollcall::learner
