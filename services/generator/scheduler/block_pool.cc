#include "services/generator/scheduler/block_pool.h"

#include <cassert>

namespace rollcall::generator {

BlockPool::BlockPool(uint32_t num_blocks) : references_(num_blocks, 0), cached_(num_blocks, 0) {
  free_.reserve(num_blocks);
  for (uint32_t block = num_blocks; block > 0; --block) free_.push_back(block - 1);
}

uint32_t BlockPool::Allocate() {
  assert(!free_.empty());
  const uint32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void BlockPool::Retain(uint32_t block) {
  assert(references_[block] > 0);
  if (holders(block) == 0) --idle_;
  ++references_[block];
}

void BlockPool::Release(uint32_t block) {
  assert(holders(block) > 0);
  if (--references_[block] == 0) {
    free_.push_back(block);
  } else if (holders(block) == 0) {
    ++idle_;
  }
}

void BlockPool::Cache(uint32_t block) {
  assert(references_[block] > 0 && cached_[block] == 0);
  cached_[block] = 1;
  ++references_[block];
}

void BlockPool::Uncache(uint32_t block) {
  assert(cached_[block] == 1);
  cached_[block] = 0;
  if (--references_[block] > 0) return;
  --idle_;
  free_.push_back(block);
}

}  // namespace rollcall::generator
