#pragma once

#include <cstdint>

#include "rollcall/v1/config.pb.h"

namespace at {
class Tensor;
}

namespace rollcall::learner {

// How a token's loss is weighted when the policy that sampled it (behaviour) is not the one that
// the ratio is taken to (proximal): other numerics, or weights a few versions older.
struct BehaviorCorrectionOptions {
  v1::BehaviorCorrection mode = v1::BEHAVIOR_CORRECTION_NONE;
  // Bounds of the importance weight; min 0 leaves the lower side open.
  double min = 0;
  double max = 2.0;
  // Log-weights are clamped to +- this; 0: not at all. verl takes 20, TRL and OpenRLHF nothing.
  double max_log_weight = 0;
};

// Importance weights w = pi_proximal / pi_behavior, with w_seq the product over the sequence:
//
//   none                1
//   token_truncate      clip(w, min, max)                      TIS, Yao et al. 2025; token level
//   token_mask          w within [min, max], else 0            IcePop, Ring-1T, arXiv 2510.18855
//   sequence_truncate   clip(w_seq, min, max)                  TRL, verl
//   sequence_mask       w_seq within [min, max], else 0        TRL, verl
//   sequence_mean_mask  w where w_seq^(1/tokens) is within [min, max], else 0: OpenRLHF
//
// proximal_logprobs, behavior_logprobs: [tokens], nats; sequence_of: [tokens], int64, below
// `sequences`. Returns [tokens], without gradient, to be multiplied with the token losses.
at::Tensor BehaviorWeights(const BehaviorCorrectionOptions& options,
                           const at::Tensor& proximal_logprobs, const at::Tensor& behavior_logprobs,
                           const at::Tensor& sequence_of, int64_t sequences);

}  // namespace rollcall::learner
