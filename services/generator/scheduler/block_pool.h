#pragma once

#include <cstdint>
#include <vector>

namespace rollcall::generator {

// Which blocks of the key/value cache are in use, and by how many holders. It knows nothing of what
// is in them. A block is freed when its last holder releases it; the most recently freed one is
// handed out first, while it is still in the processor's caches. Not thread-safe. Misuse (a block
// that is not in use) is a defect of ours and asserts.
class BlockPool {
 public:
  explicit BlockPool(uint32_t num_blocks);

  // A block with one holder. Requires num_free() > 0.
  uint32_t Allocate();
  // One more holder of a block in use.
  void Retain(uint32_t block);
  // One holder less.
  void Release(uint32_t block);

  uint32_t references(uint32_t block) const { return references_[block]; }
  uint32_t num_free() const { return static_cast<uint32_t>(free_.size()); }
  uint32_t num_blocks() const { return static_cast<uint32_t>(references_.size()); }

 private:
  std::vector<uint32_t> references_;
  std::vector<uint32_t> free_;  // a stack
};

}  // namespace rollcall::generator
