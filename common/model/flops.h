#pragma once

#include <cstdint>

#include "common/model/model_config.h"

namespace rollcall::model {

// Floating-point operations that a model's definition needs for one forward pass over a sequence of
// `length` tokens whose head is applied at `scored` of them: what model FLOPs utilisation counts
// (PaLM, arXiv 2204.02311, appendix B, but with attention's triangle instead of its square, and the
// head only where it is needed). A multiply-add is two; norms, rotations, activations, softmax and
// the embedding are left out. With h hidden, d head_dim, q heads, k key/value heads, i intermediate
// size and V vocabulary, a layer has
//   2 h d (q + 2 k) + 2 q d h        a token: projections
//   2 * 3 h i                        a token: MLP; of experts, those that a token visits and the router
//   4 q d                            a key seen by a token: scores and their product with the values
// and the head 2 h V a scored token (2 h with a single label). A sliding layer sees min(position + 1,
// sliding_window) keys.
double ForwardFlops(const ModelConfig& config, uint64_t length, uint64_t scored);

}  // namespace rollcall::model
