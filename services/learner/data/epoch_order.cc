#include "services/learner/data/epoch_order.h"

#include <numeric>

#include "common/base/philox.h"

namespace rollcall::learner {
namespace {

// Streams of the run's seed that shuffle data; initialisation uses those from 0.
constexpr uint64_t kFirstStream = uint64_t{1} << 56;
// Of which each source has 2^40, one for each epoch.
constexpr int kEpochBits = 40;
constexpr size_t kEpochsKept = 2;

}  // namespace

uint64_t EpochOrder::RowAt(uint64_t ordinal) const {
  const uint64_t offset = ordinal % rows_;
  return shuffle_ ? (*PermutationOf(ordinal / rows_))[offset] : offset;
}

EpochOrder::Permutation EpochOrder::PermutationOf(uint64_t epoch) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [kept, permutation] : recent_) {
    if (kept == epoch) return permutation;
  }
  std::vector<uint64_t> order(rows_);
  std::iota(order.begin(), order.end(), uint64_t{0});
  PhiloxStream stream(seed_, kFirstStream + (source_ << kEpochBits) + epoch);
  for (uint64_t last = rows_ - 1; last > 0; --last) {
    std::swap(order[last], order[stream.Below(last + 1)]);
  }
  auto permutation = std::make_shared<const std::vector<uint64_t>>(std::move(order));
  recent_.emplace_front(epoch, permutation);
  if (recent_.size() > kEpochsKept) recent_.pop_back();
  return permutation;
}

}  // namespace rollcall::learner
