#include "common/model/kv_cache.h"

#include "absl/strings/str_cat.h"
#include "common/model/kernels/kernels.h"
#include "common/model/large_memory.h"

namespace rollcall::model {

absl::StatusOr<KvCache> KvCache::Create(const ModelConfig& config, const KvCacheOptions& options,
                                        at::ScalarType dtype, const at::Device& device) {
  if (options.block_size < 1 || options.block_size % kernels::kLanes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("block_size: expected a multiple of ",
                                                   kernels::kLanes, ", got ", options.block_size));
  }
  if (options.num_blocks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_blocks: expected at least 1, got ", options.num_blocks));
  }
  const auto tensor_options = at::TensorOptions().dtype(dtype).device(device);
  const int64_t heads = config.num_kv_heads, head_dim = config.head_dim;
  KvCache cache;
  cache.num_blocks_ = options.num_blocks;
  cache.block_size_ = options.block_size;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    cache.keys_.push_back(
        LargeZeros({options.num_blocks, heads, head_dim, options.block_size}, tensor_options));
    cache.values_.push_back(
        LargeZeros({options.num_blocks, heads, options.block_size, kernels::PaddedHead(head_dim)},
                   tensor_options));
  }
  return cache;
}

int64_t KvCache::BytesPerBlock(const ModelConfig& config, int64_t block_size,
                               at::ScalarType dtype) {
  return config.KvElementsPerToken() * block_size * static_cast<int64_t>(c10::elementSize(dtype));
}

void KvCache::CopyBlock(int64_t source, int64_t destination) {
  for (size_t layer = 0; layer < keys_.size(); ++layer) {
    keys_[layer].select(0, destination).copy_(keys_[layer].select(0, source));
    values_[layer].select(0, destination).copy_(values_[layer].select(0, source));
  }
}

}  // namespace rollcall::model
