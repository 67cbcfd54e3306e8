#include "common/model/attention_context.h"

#include <ATen/ops/empty.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "common/model/operators.h"

namespace rollcall::model {

absl::StatusOr<PackedAttention> PackedAttention::Create(std::vector<int64_t> cu_seqlens) {
  if (cu_seqlens.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("cu_seqlens: expected at least 2 entries, got ", cu_seqlens.size()));
  }
  if (cu_seqlens[0] != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cu_seqlens[0]: expected 0, got ", cu_seqlens[0]));
  }
  for (size_t i = 1; i < cu_seqlens.size(); ++i) {
    if (cu_seqlens[i] <= cu_seqlens[i - 1]) {
      return absl::InvalidArgumentError(absl::StrCat("cu_seqlens[", i, "]: expected more than ",
                                                     cu_seqlens[i - 1], ", got ", cu_seqlens[i]));
    }
  }
  return PackedAttention(std::move(cu_seqlens));
}

at::Tensor PackedAttention::Attend(const AttentionLayer& layer, const at::Tensor& q,
                                   const at::Tensor& k, const at::Tensor& v) {
  return AttendPacked(layer.backend, q, k, v, cu_seqlens_, layer.rule);
}

at::Tensor PackedAttention::Positions() const {
  at::Tensor positions = at::empty({num_tokens()}, at::TensorOptions().dtype(at::kLong));
  int64_t* out = positions.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i + 1 < cu_seqlens_.size(); ++i) {
    for (int64_t t = cu_seqlens_[i]; t < cu_seqlens_[i + 1]; ++t) out[t] = t - cu_seqlens_[i];
  }
  return positions;
}

absl::StatusOr<PagedAttention> PagedAttention::Create(KvCache* cache,
                                                      std::vector<PagedSequence> sequences) {
  if (sequences.empty()) return absl::InvalidArgumentError("sequences: expected at least one");
  const int64_t block_size = cache->block_size();
  int64_t num_tokens = 0;
  std::set<int32_t> written;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const PagedSequence& sequence = sequences[i];
    const auto name = absl::StrCat("sequences[", i, "]");
    if (sequence.count < 1 || sequence.start < 0) {
      return absl::InvalidArgumentError(absl::StrCat(name,
                                                     ": expected start >= 0 and count >= 1, got ",
                                                     sequence.start, " and ", sequence.count));
    }
    const int64_t end = sequence.start + sequence.count;
    const int64_t blocks = (end + block_size - 1) / block_size;
    if (static_cast<int64_t>(sequence.block_table.size()) < blocks) {
      return absl::InvalidArgumentError(absl::StrCat(name, ".block_table: expected ", blocks,
                                                     " blocks for ", end, " tokens, got ",
                                                     sequence.block_table.size()));
    }
    for (int64_t b = 0; b < blocks; ++b) {
      const int32_t block = sequence.block_table[b];
      if (block < 0 || block >= cache->num_blocks()) {
        return absl::InvalidArgumentError(absl::StrCat(name, ".block_table[", b,
                                                       "]: expected less than ",
                                                       cache->num_blocks(), ", got ", block));
      }
      if (b >= sequence.start / block_size && !written.insert(block).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(name, ".block_table[", b, "]: block ", block,
                         " would be written twice; copy shared blocks first"));
      }
    }
    num_tokens += sequence.count;
  }
  return PagedAttention(cache, std::move(sequences), num_tokens);
}

at::Tensor PagedAttention::Attend(const AttentionLayer& layer, const at::Tensor& q,
                                  const at::Tensor& k, const at::Tensor& v) {
  return AttendPaged(layer.backend, q, k, v, sequences_, *cache_, layer.index, layer.rule);
}

at::Tensor PagedAttention::Positions() const {
  at::Tensor positions = at::empty({num_tokens_}, at::TensorOptions().dtype(at::kLong));
  int64_t* out = positions.mutable_data_ptr<int64_t>();
  for (const PagedSequence& sequence : sequences_) {
    for (int64_t i = 0; i < sequence.count; ++i) *out++ = sequence.start + i;
  }
  return positions;
}

}  // namespace rollcall::model
