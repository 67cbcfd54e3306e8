#pragma once

#include <cstdint>
#include <vector>

namespace rollcall::generator {

// Which blocks of the key/value cache are in use, and by how many holders. It knows nothing of what
// is in them. A block is freed when its last holder releases it and the prefix cache does not hold
// it; the most recently freed one is handed out first, while it is still in the processor's caches.
// Not thread-safe. Misuse (a block that is not in use) is a defect of ours and asserts.
class BlockPool {
 public:
  explicit BlockPool(uint32_t num_blocks);

  // A block with one holder. Requires num_free() > 0.
  uint32_t Allocate();
  // One more holder of a block in use.
  void Retain(uint32_t block);
  // One holder less.
  void Release(uint32_t block);

  // The prefix cache's own hold on a block that has holders and that it does not hold yet.
  void Cache(uint32_t block);
  // Ends it.
  void Uncache(uint32_t block);

  // Holders, the prefix cache included.
  uint32_t references(uint32_t block) const { return references_[block]; }
  // Holders besides the prefix cache.
  uint32_t holders(uint32_t block) const { return references_[block] - cached_[block]; }
  uint32_t num_free() const { return static_cast<uint32_t>(free_.size()); }
  // Blocks that only the prefix cache holds.
  uint32_t num_idle() const { return idle_; }
  uint32_t num_blocks() const { return static_cast<uint32_t>(references_.size()); }

 private:
  std::vector<uint32_t> references_;
  std::vector<uint8_t> cached_;
  std::vector<uint32_t> free_;  // a stack
  uint32_t idle_ = 0;
};

}  // namespace rollcall::generator
