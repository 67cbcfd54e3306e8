#pragma once

// The two ways through a decoder, driven as the learner and the generator drive them, for tests
// that compare them bit for bit.

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "common/base/philox.h"
#include "common/model/decoder.h"

namespace rollcall::model::testing {

// Random sequences laid end to end.
struct Batch {
  std::vector<at::Tensor> sequences;
  std::vector<int64_t> cu_seqlens = {0};

  Batch(const std::vector<int64_t>& lengths, int64_t vocab, uint64_t seed);
  at::Tensor Tokens() const;
};

// What the model says at each hidden row: logits [n, vocab], or values [n, 1].
at::Tensor OutputsOf(Decoder& decoder, const at::Tensor& hidden);

struct PackedResult {
  at::Tensor hidden, outputs;
  at::Tensor logprob;  // of the tokens shifted by one, at temperature 0.7; of a language model
};

// As the learner runs it: gradients on, and a loss back-propagated.
PackedResult RunPacked(Decoder& decoder, const Batch& batch);

// Serves all sequences over one cache of 64 blocks, whose unused places hold NaN and infinity, and
// returns the outputs of all tokens in the batch's order. `next_chunk(remaining)` says how many
// tokens of a sequence run in a step (0: it sits this one out); the order of sequences inside a
// step is shuffled.
at::Tensor RunPaged(Decoder& decoder, const Batch& batch, int64_t block_size,
                    const std::function<int64_t(int64_t remaining)>& next_chunk,
                    PhiloxStream& random);

}  // namespace rollcall::model::testing
