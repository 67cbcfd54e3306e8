#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/model/decoder.h"

namespace rollcall::model {

// logprob: [n], float32, nats: log softmax(logits / temperature)[target].
// entropy: [n], float32, nats: of softmax(logits / temperature); undefined unless asked for.
struct TokenScores {
  at::Tensor logprob;
  at::Tensor entropy;
};

enum class EntropyMode {
  kNone,
  kDetached,        // a number to report
  kDifferentiable,  // with gradient, for an entropy bonus
};

// hidden: [n, hidden] rows of Forward's result; targets: [n], int64, in [0, vocab).
//
// Differentiable with respect to hidden and the head. Works through the rows in chunks and computes
// a chunk's logits again in the backward pass, so [n, vocab] is never held. The chunk size changes
// no bit of any result. UNIMPLEMENTED: a model without a language-model head. INVALID_ARGUMENT:
// temperature not finite or not positive, shapes that do not fit, a target outside the vocabulary.
absl::StatusOr<TokenScores> ScoreTokens(Decoder& decoder, const at::Tensor& hidden,
                                        const at::Tensor& targets, double temperature,
                                        EntropyMode entropy);

// Log-prob of `token` under one row of Logits: [vocab], float32, on the CPU. ScoreTokens' kernel:
// equal logits give equal bits. Requires 0 <= token < vocab and temperature > 0.
float TokenLogProb(const float* logits, int64_t vocab, double temperature, int64_t token);

}  // namespace rollcall::model
