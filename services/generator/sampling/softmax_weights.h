#pragma once

#include <span>

#include "absl/status/statusor.h"

namespace rollcall::generator {

// Unnormalised softmax in float64: weights[i] = exp((logits[i] - max) / temperature), and 0 where a
// logit is -inf. The exponential is our own and uses only additions and multiplications, so equal
// logits give equal bits on every machine whose float64 is IEEE 754, whatever its C library and
// instruction set.
//
// logits: [vocab], float32; weights: [vocab]; temperature > 0.
// Returns the largest logit. INTERNAL: a logit is NaN or +inf, or all are -inf: the model's weights
// are broken.
absl::StatusOr<float> SoftmaxWeights(std::span<const float> logits, double temperature,
                                     std::span<double> weights);

// Index of the first largest logit. INTERNAL as above.
absl::StatusOr<size_t> FirstArgmax(std::span<const float> logits);

}  // namespace rollcall::generator
