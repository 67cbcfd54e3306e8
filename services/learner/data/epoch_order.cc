#include "services/learner/data/epoch_order.h"

#include <numeric>

#include "common/base/philox.h"
#include "services/learner/data/shuffle_streams.h"

namespace rollcall::learner {
namespace {

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
  PhiloxStream stream(seed_, EpochStream(source_, epoch));
  for (uint64_t last = rows_ - 1; last > 0; --last) {
    std::swap(order[last], order[stream.Below(last + 1)]);
  }
  auto permutation = std::make_shared<const std::vector<uint64_t>>(std::move(order));
  recent_.emplace_front(epoch, permutation);
  if (recent_.size() > kEpochsKept) recent_.pop_back();
  return permutation;
}

}  // namespace rollcall::learner
