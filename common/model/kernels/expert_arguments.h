#pragma once

// Arguments of the kernels of a mixture of experts; the words are those of arguments.h.

#include <cstdint>

#include "common/model/kernels/arguments.h"

namespace rollcall::model::kernels {

// Router of a mixture of experts, one row of float32 logits [experts] for each token. The `top`
// experts of the largest logits are chosen, of equal ones the lower index, and listed by ascending
// index. With m the largest logit and e_i = exp(logit_i - m), the weight of a chosen expert is
//   e_i * (1 / lane sum of e over all experts), or, when normalizing,
//   e_i / (sum of the chosen e, upwards).
struct RouteArgs {
  int64_t experts, top;
  bool normalize;
  const float* logits;
  int64_t* chosen;        // [rows, top]; read by the backward
  float* weights;         // [rows, top]; read by the backward
  const float* dweights;  // [rows, top]
  float* dlogits;         // [rows, experts]
};

// y[t] = sum over i < top of weights[t, i] * rows[slots[t, i]]: one chain over i. Without weights:
// a plain sum over i, upwards.
struct CombineArgs {
  int64_t top, width;
  const float* rows;     // [slots, width]
  const int64_t* slots;  // [tokens, top]
  const float* weights;  // [tokens, top] or null
  Element type;
  void* y;  // [tokens, width]
};

// The gradient of one weighted expert row: with u = dy W_down and the row's activations a,
// dweight[s] = lane sum of fma(u, a, lane) and da = weight * u.
struct WeighArgs {
  int64_t width;
  Element type;
  const float* u;             // [slots, width]
  const void* activations;    // [slots, width]
  const float* slot_weights;  // [slots]
  float* dweights;            // [slots]
  void* dactivations;         // [slots, width]
};

// Most experts that a router may have.
inline constexpr int64_t kMaxExperts = 1024;

}  // namespace rollcall::model::kernels
