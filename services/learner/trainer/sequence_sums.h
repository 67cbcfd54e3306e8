#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <vector>

#include "services/learner/batching/packed_batch.h"

namespace rollcall::learner {

// [sequences]: sums of a [loss tokens] column over each packed sequence, in the order of its tokens.
inline at::Tensor SumPerSequence(const PackedBatch& packed, const at::Tensor& of_tokens) {
  const at::Tensor owners =
      at::tensor(std::vector<int64_t>(packed.sequence_of.begin(), packed.sequence_of.end()))
          .to(of_tokens.device());
  return at::zeros({static_cast<int64_t>(packed.sequences.size())}, of_tokens.options())
      .index_add(0, owners, of_tokens);
}

}  // namespace rollcall::learner
