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

std::vector<double> Weights(const std::vector<SourceRows>& sources) {
  std::vector<double> weights;
  for (const SourceRows& source : sources) weights.push_back(source.weight);
  return weights;
}

}  // namespace

SourceTurns::SourceTurns(const std::vector<double>& weights) {
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    double left = 0;  // weight of this source and those after it
    for (size_t later = i; later < weights.size(); ++later) left += weights[later];
    const double part = weights[i] / left * static_cast<double>(kWhole);
    // Never 0: a source that is named is visited.
    shares_.push_back(
        std::clamp(static_cast<uint64_t>(std::llround(part)), uint64_t{1}, kWhole - 1));
  }
}

SourceTurns::Turn SourceTurns::At(uint64_t ordinal) const {
  // Each source in turn takes its share of the draws that are left, or passes this one on.
  for (size_t source = 0; source < shares_.size(); ++source) {
    const uint64_t taken = Taken(ordinal, shares_[source]);
    if (Taken(ordinal + 1, shares_[source]) > taken) return {source, taken};
    ordinal -= taken;
  }
  return {shares_.size(), ordinal};  // the last one takes what is left
}

MixtureOrder::MixtureOrder(uint64_t seed, uint64_t rows, bool shuffle,
                           const std::vector<SourceRows>& sources)
    : rows_(rows), turns_(Weights(sources)) {
  if (sources.empty()) {
    sources_.push_back({0, std::make_unique<EpochOrder>(seed, rows, shuffle)});
    return;
  }
  uint64_t first_row = 0;
  for (size_t i = 0; i < sources.size(); ++i) {
    sources_.push_back(
        {first_row, std::make_unique<EpochOrder>(seed, sources[i].rows, shuffle, i)});
    first_row += sources[i].rows;
  }
}

MixtureOrder::Draw MixtureOrder::At(uint64_t ordinal) const {
  const SourceTurns::Turn turn = turns_.At(ordinal);
  const Source& source = sources_[turn.source];
  return {source.first_row + source.order->RowAt(turn.ordinal),
          source.order->EpochOf(turn.ordinal)};
}

}  // namespace rollcall::learner
