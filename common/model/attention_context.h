#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/attention_rule.h"
#include "common/model/backend.h"
#include "common/model/kv_cache.h"

namespace rollcall::model {

// What the decoder says about one layer's attention.
struct AttentionLayer {
  int64_t index = 0;
  AttentionRule rule;
  Backend backend = Backend::kKernels;
};

// How the rows of one Forward see each other. The decoder calls Attend once per layer, in order.
//
// q: [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim], rotated, compute dtype.
// Returns [tokens, heads, head_dim].
class AttentionContext {
 public:
  virtual ~AttentionContext() = default;
  virtual at::Tensor Attend(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v) = 0;
  // Rows that Attend expects.
  virtual int64_t num_tokens() const = 0;
  // A copy that a backward pass may keep; null of a context without gradients.
  virtual std::shared_ptr<AttentionContext> Copy() const { return nullptr; }
};

// Causal attention within each of several sequences laid end to end, differentiable: what the
// learner and the reference use. Sequence i holds rows [cu_seqlens[i], cu_seqlens[i + 1]); its
// positions count from 0.
class PackedAttention final : public AttentionContext {
 public:
  // INVALID_ARGUMENT unless cu_seqlens begins with 0, increases strictly and has at least two
  // entries.
  static absl::StatusOr<PackedAttention> Create(std::vector<int64_t> cu_seqlens);

  at::Tensor Attend(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override;

  int64_t num_tokens() const override { return cu_seqlens_.back(); }
  std::shared_ptr<AttentionContext> Copy() const override {
    return std::make_shared<PackedAttention>(*this);
  }
  // 0, 1, … within each sequence: [tokens], int64, on the CPU.
  at::Tensor Positions() const;

 private:
  explicit PackedAttention(std::vector<int64_t> cu_seqlens) : cu_seqlens_(std::move(cu_seqlens)) {}

  std::vector<int64_t> cu_seqlens_;
};

// One sequence's part in a paged step: `count` new tokens at positions [start, start + count).
// Token t lives in block block_table[t / block_size]; positions below start are in the cache
// already.
struct PagedSequence {
  std::vector<int32_t> block_table;
  int64_t start = 0;
  int64_t count = 0;
};

// Attention over a KV cache: writes the new tokens' keys and values, then attends to everything
// before. Prefill, chunked prefill and decode are the same call, and give the bits of
// PackedAttention. No gradients. Rows of Forward are the sequences' new tokens in order.
class PagedAttention final : public AttentionContext {
 public:
  // INVALID_ARGUMENT: an empty step, a sequence without new tokens, a block table too short or with
  // a block that the cache lacks, or a block that two sequences would both write. `cache` must
  // outlive this object.
  static absl::StatusOr<PagedAttention> Create(KvCache* cache,
                                               std::vector<PagedSequence> sequences);

  at::Tensor Attend(const AttentionLayer& layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override;

  int64_t num_tokens() const override { return num_tokens_; }
  // Positions of the new tokens: [tokens], int64, on the CPU.
  at::Tensor Positions() const;

 private:
  PagedAttention(KvCache* cache, std::vector<PagedSequence> sequences, int64_t num_tokens)
      : cache_(cache), sequences_(std::move(sequences)), num_tokens_(num_tokens) {}

  KvCache* cache_;
  std::vector<PagedSequence> sequences_;
  int64_t num_tokens_;
};

}  // namespace rollcall::model
