#pragma once

#include <ATen/core/Tensor.h>

#include "rollcall/v1/config.pb.h"

namespace rollcall::learner {

// The ratio pi / pi_old is clipped to [1 - low, 1 + high].
struct ClipRange {
  double low = 0.2;
  double high = 0.2;
};

// Per-token quantities of a policy loss; every tensor is [tokens].
struct PolicyLoss {
  // To be minimised; carries the gradient.
  at::Tensor loss;
  // pi / pi_old as the loss sees it (of the whole sequence for sequence ratios), detached.
  at::Tensor ratio;
  // bool: the lower bound stopped this token's gradient (advantage < 0 and ratio < 1 - low).
  at::Tensor clipped_low;
  // bool: the upper bound did (advantage > 0 and ratio > 1 + high).
  at::Tensor clipped_high;
};

// Bounds of the PPO surrogate beyond its clip; 0 switches each off.
struct SurrogateBounds {
  // Dual clip, arXiv 1912.09729, equation 5: with a negative advantage the loss is at most
  // -dual_clip * A. verl 3 by default, TRL none.
  double dual_clip = 0;
  // The unclipped branch sees at most this ratio: TRL's delta, INTELLECT-2, arXiv 2505.07291.
  double ratio_cap = 0;
};

// Clipped surrogate: PPO, arXiv 1707.06347, equation 7, per token and negated; with high > low it
// is DAPO's clip-higher, arXiv 2503.14476, equation 10.
//
//   loss = max(-A * ratio, -A * clip(ratio, 1 - low, 1 + high))
//
// log_ratio, advantages: [tokens], one float dtype; the gradient flows into log_ratio only. Where
// the two branches are equal (ratio within the bounds) the gradient is that of the unclipped one.
PolicyLoss ClippedSurrogate(const at::Tensor& log_ratio, const at::Tensor& advantages,
                            const ClipRange& clip, const SurrogateBounds& bounds = {});

// ClippedSurrogate of logprobs - old_logprobs, token by token.
PolicyLoss ClippedPolicyLoss(const at::Tensor& logprobs, const at::Tensor& old_logprobs,
                             const at::Tensor& advantages, const ClipRange& clip);

// loss = -sg(clip(ratio, 1 - low, 1 + high)) * A * logprobs: CISPO, arXiv 2506.13585, equation 4.
// Every token keeps a gradient; the bounds only cap its weight. low = 1 leaves the lower side open.
// TRL's epsilon_high is the cap itself, 1 + high here.
PolicyLoss CispoLoss(const at::Tensor& logprobs, const at::Tensor& log_ratio,
                     const at::Tensor& advantages, const ClipRange& clip);

// loss = -A * logprobs: Williams, 1992. Right only for on-policy tokens: there is no ratio.
PolicyLoss ReinforceLoss(const at::Tensor& logprobs, const at::Tensor& log_ratio,
                         const at::Tensor& advantages);

// The log-ratio of each token's whole sequence, repeated over its tokens:
//   token           that of the token itself
//   sequence_mean   mean over the sequence's tokens: GSPO, arXiv 2507.18071, equation 7
//   sequence_mean_token  the same value, but each token's own gradient: GSPO-token, section 4.3
//   sequence_sum    sum over them, the ratio of the sequences' probabilities: TRL's RLOO
//
// log_ratio: [tokens]; sequence_of: [tokens], int64, below `sequences`. Carries the gradient.
at::Tensor LogRatioAtLevel(v1::RatioLevel level, const at::Tensor& log_ratio,
                           const at::Tensor& sequence_of, int64_t sequences);

struct PolicyLossOptions {
  v1::PolicyLossType type = v1::POLICY_LOSS_TYPE_PPO_CLIP;
  v1::RatioLevel ratio_level = v1::RATIO_LEVEL_TOKEN;
  ClipRange clip;
  SurrogateBounds bounds;
  // Log-ratios are clamped to +- this before exp, which also stops their gradient; 0: not at all.
  // verl and OpenRLHF take 20, TRL nothing.
  double max_log_ratio = 0;
};

// The loss that `options` describes. logprobs, old_logprobs, advantages: [tokens], one float dtype.
PolicyLoss ComputePolicyLoss(const PolicyLossOptions& options, const at::Tensor& logprobs,
                             const at::Tensor& old_logprobs, const at::Tensor& advantages,
                             const at::Tensor& sequence_of, int64_t sequences);

}  // namespace rollcall::learner
