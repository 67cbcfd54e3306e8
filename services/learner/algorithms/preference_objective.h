#pragma once

#include <ATen/core/TensorBody.h>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/algorithms/pairwise_loss.h"
#include "services/learner/algorithms/preference_loss.h"

namespace rollcall::learner {

// What a stage that learns from recorded preferences minimises over a batch:
//
//   preference_weight * mean of the preference losses
//     + likelihood_weight * mean of -log-prob over the tokens of all chosen completions
//
// Both means are over the whole batch, all micro-batches and ranks.
struct PreferenceObjective {
  enum class Kind {
    kReferencePairs,  // dpo: PairwiseLoss
    kMargin,          // simpo: SimpoLoss
    kOddsRatio,       // orpo: OddsRatioLoss
    kLabelled,        // kto: LabelledLoss
  };
  Kind kind = Kind::kReferencePairs;
  PairwiseOptions pairs;
  // simpo: margins are of the means over a completion's tokens, not of their sums.
  bool means = false;
  double target_margin = 0;
  LabelledOptions labelled;
  // kto: whether log-ratios are compared with the KL to the reference, or with 0.
  bool kl_baseline = false;
  double preference_weight = 1;
  double likelihood_weight = 0;

  bool takes_pairs() const { return kind != Kind::kLabelled; }
  bool needs_reference() const { return kind == Kind::kReferencePairs || kind == Kind::kLabelled; }
};

// That of `stage` with the cells of `section`, whose beta is set. INVALID_ARGUMENT names the field
// that the stage cannot use.
absl::StatusOr<PreferenceObjective> ComposePreferenceObjective(
    v1::Stage stage, const v1::PreferenceSection& section);

// Log-probs of completions, each [sequences], one float dtype.
struct CompletionLogprobs {
  at::Tensor policy;     // nats, summed over the completion's tokens; carries the gradient
  at::Tensor reference;  // the same under the reference; undefined where there is none
  at::Tensor tokens;     // number of tokens, at least 1
};

// Losses and, without gradient, the rewards that the objective implies: what accuracy and margin
// are about.
struct PreferenceLosses {
  at::Tensor losses;
  at::Tensor chosen_rewards;
  // Undefined for labelled completions, whose rewards stand in chosen_rewards.
  at::Tensor rejected_rewards;
};

// Of pairs: chosen[i] is preferred to rejected[i] with probability preference[i], and the loss is
// the expected one: p loss(chosen, rejected) + (1 - p) loss(rejected, chosen). Undefined: 1 for all.
//
// Rewards: dpo β (log π - log π_ref), simpo and orpo β log π (of means where the loss takes means).
// All tensors [pairs].
PreferenceLosses LossesOfPairs(const PreferenceObjective& objective,
                               const CompletionLogprobs& chosen, const CompletionLogprobs& rejected,
                               const at::Tensor& preference = {});

// Of labelled completions, with the batch's KL to the reference (KlBaseline). Rewards:
// β (log π - log π_ref). All tensors [sequences].
PreferenceLosses LossesOfLabelled(const PreferenceObjective& objective,
                                  const CompletionLogprobs& completions,
                                  const at::Tensor& desirable, double kl);

}  // namespace rollcall::learner
