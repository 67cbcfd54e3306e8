#include "services/generator/scheduler/block_pool.h"

#include <cassert>

namespace rollcall::generator {

BlockPool::BlockPool(uint32_t num_blocks) : references_(num_blocks, 0) {
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
  ++references_[block];
}

void BlockPool::Release(uint32_t block) {
  assert(references_[block] > 0);
  if (--references_[block] == 0) free_.push_back(block);
}

}  // namespace rollcall::generator
