#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"

namespace rollcall::model {

struct KvCacheOptions {
  int64_t num_blocks = 0;
  int64_t block_size = 16;  // tokens; a multiple of 16
};

// Keys and values of past tokens, all layers, in blocks of `block_size` tokens that a block table
// strings together. Which block holds which tokens is the caller's business; a block may appear in
// several tables as long as nobody writes to it. Not thread-safe: it belongs to the thread that
// owns the model.
//
// keys(layer):   [num_blocks, kv_heads, head_dim, block_size] (transposed: kernels run over keys)
// values(layer): [num_blocks, kv_heads, block_size, head_dim rounded up to 16]
class KvCache {
 public:
  // INVALID_ARGUMENT: block_size not a positive multiple of 16, num_blocks below 1. Memory is
  // allocated here; LibTorch's out-of-memory comes as an exception (TorchCall).
  static absl::StatusOr<KvCache> Create(const ModelConfig& config, const KvCacheOptions& options,
                                        at::ScalarType dtype, const at::Device& device);

  // Bytes that one block takes in all layers together.
  static int64_t BytesPerBlock(const ModelConfig& config, int64_t block_size, at::ScalarType dtype);

  // Copies all layers of one block, for copy-on-write of a shared prefix.
  void CopyBlock(int64_t source, int64_t destination);

  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_size() const { return block_size_; }
  int64_t num_layers() const { return static_cast<int64_t>(keys_.size()); }
  const at::Tensor& keys(int64_t layer) const { return keys_[layer]; }
  const at::Tensor& values(int64_t layer) const { return values_[layer]; }

 private:
  KvCache() = default;

  int64_t num_blocks_ = 0;
  int64_t block_size_ = 0;
  std::vector<at::Tensor> keys_;
  std::vector<at::Tensor> values_;
};

}  // namespace rollcall::model
