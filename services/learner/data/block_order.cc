#include "services/learner/data/block_order.h"

#include <algorithm>
#include <numeric>

#include "common/base/philox.h"
#include "services/learner/data/shuffle_streams.h"

namespace rollcall::learner {
namespace {

// A window of rows of 1 KB holds 16 000 of them, a few batches; two windows are in memory at most.
constexpr uint64_t kWindowBytes = uint64_t{16} << 20;
constexpr uint64_t kWindowRows = 65'536;
constexpr size_t kEpochsKept = 2;

template <typename T>
void Shuffle(std::vector<T>& values, PhiloxStream stream) {
  for (size_t last = values.size(); last-- > 1;) {
    std::swap(values[last], values[stream.Below(last + 1)]);
  }
}

}  // namespace

BlockOrder::BlockOrder(uint64_t seed, std::vector<RowBlock> blocks, bool shuffle, uint64_t source)
    : seed_(seed), blocks_(std::move(blocks)), shuffle_(shuffle), source_(source) {
  for (const RowBlock& block : blocks_) rows_ += block.rows;
}

BlockOrder::Plan BlockOrder::MakePlan(uint64_t epoch) const {
  std::vector<size_t> runs;  // first block of each
  for (size_t block = 0; block < blocks_.size(); ++block) {
    if (block == 0 || !blocks_[block].goes_on) runs.push_back(block);
  }
  if (shuffle_) Shuffle(runs, PhiloxStream(seed_, EpochStream(source_, epoch)));
  Plan plan;
  plan.blocks.reserve(blocks_.size());
  for (const size_t run : runs) {
    size_t block = run;
    do {
      if (blocks_[block].rows > 0) plan.blocks.push_back(block);
      ++block;
    } while (block < blocks_.size() && blocks_[block].goes_on);
  }
  uint64_t rows = 0, bytes = 0, before = 0;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const RowBlock& block = blocks_[plan.blocks[i]];
    if (i == 0 || bytes + block.bytes > kWindowBytes || rows + block.rows > kWindowRows) {
      plan.window_blocks.push_back(i);
      plan.window_rows.push_back(before);
      rows = bytes = 0;
    }
    rows += block.rows;
    bytes += block.bytes;
    before += block.rows;
  }
  return plan;
}

std::shared_ptr<const BlockOrder::Plan> BlockOrder::PlanOf(uint64_t epoch) const {
  for (const auto& [kept, plan] : recent_) {
    if (kept == epoch) return plan;
  }
  auto plan = std::make_shared<const Plan>(MakePlan(epoch));
  recent_.emplace_front(epoch, plan);
  if (recent_.size() > kEpochsKept) recent_.pop_back();
  return plan;
}

BlockOrder::Window BlockOrder::WindowOf(uint64_t ordinal) const {
  const uint64_t epoch = EpochOf(ordinal), offset = ordinal % rows_;
  const std::shared_ptr<const Plan> plan = PlanOf(epoch);
  const auto next = std::upper_bound(plan->window_rows.begin(), plan->window_rows.end(), offset);
  const auto index = static_cast<size_t>(next - plan->window_rows.begin()) - 1;
  const size_t begin = plan->window_blocks[index];
  const size_t end =
      index + 1 < plan->window_blocks.size() ? plan->window_blocks[index + 1] : plan->blocks.size();
  Window window;
  window.epoch = epoch;
  window.first_ordinal = epoch * rows_ + plan->window_rows[index];
  uint64_t rows = 0;
  for (size_t i = begin; i < end; ++i) {
    window.blocks.push_back(plan->blocks[i]);
    rows += blocks_[plan->blocks[i]].rows;
  }
  window.order.resize(rows);
  std::iota(window.order.begin(), window.order.end(), 0u);
  if (shuffle_) Shuffle(window.order, PhiloxStream(seed_, WindowStream(source_, epoch, index)));
  return window;
}

}  // namespace rollcall::learner
