#include "services/learner/algorithms/preference_objective.h"

#include <ATen/core/Tensor.h>

#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace rollcall::learner {
namespace {

std::optional<PairwiseLossType> TypeOf(v1::PreferenceLoss loss) {
  switch (loss) {
    case v1::PREFERENCE_LOSS_UNSPECIFIED:
    case v1::PREFERENCE_LOSS_SIGMOID:
    case v1::PREFERENCE_LOSS_SFT:  // its preference term has no weight
      return PairwiseLossType::kSigmoid;
    case v1::PREFERENCE_LOSS_IPO:
      return PairwiseLossType::kIpo;
    case v1::PREFERENCE_LOSS_HINGE:
      return PairwiseLossType::kHinge;
    case v1::PREFERENCE_LOSS_ROBUST:
      return PairwiseLossType::kRobust;
    case v1::PREFERENCE_LOSS_SIGMOID_NORM:
      return PairwiseLossType::kSigmoidNorm;
    case v1::PREFERENCE_LOSS_APO_ZERO:
      return PairwiseLossType::kApoZero;
    case v1::PREFERENCE_LOSS_APO_DOWN:
      return PairwiseLossType::kApoDown;
    case v1::PREFERENCE_LOSS_NCA_PAIR:
      return PairwiseLossType::kNcaPair;
    case v1::PREFERENCE_LOSS_BCO_PAIR:
      return PairwiseLossType::kBcoPair;
    case v1::PREFERENCE_LOSS_SPPO_HARD:
      return PairwiseLossType::kSppoHard;
    case v1::PREFERENCE_LOSS_DISCOPOP:
      return PairwiseLossType::kDiscopop;
    default:
      return std::nullopt;
  }
}

bool IsPlain(v1::PreferenceLoss loss) {
  return loss == v1::PREFERENCE_LOSS_UNSPECIFIED || loss == v1::PREFERENCE_LOSS_SIGMOID;
}

absl::Status WrongLoss(v1::Stage stage, v1::PreferenceLoss loss) {
  const auto lower = [](const std::string& name, const char* prefix) {
    return absl::AsciiStrToLower(absl::StripPrefix(name, prefix));
  };
  return absl::InvalidArgumentError(
      absl::StrCat("preference.loss: stage ", lower(v1::Stage_Name(stage), "STAGE_"),
                   " has no loss ", lower(v1::PreferenceLoss_Name(loss), "PREFERENCE_LOSS_")));
}

absl::Status ComposeDpo(const v1::PreferenceSection& section, PreferenceObjective& objective) {
  const std::optional<PairwiseLossType> type = TypeOf(section.loss());
  if (!type.has_value()) return WrongLoss(v1::STAGE_DPO, section.loss());
  objective.kind = PreferenceObjective::Kind::kReferencePairs;
  objective.pairs.type = *type;
  objective.pairs.mean_log_prob = section.mean_log_prob();
  objective.likelihood_weight = section.sft_weight();
  if (section.loss() == v1::PREFERENCE_LOSS_SFT) {
    objective.preference_weight = 0;
    if (objective.likelihood_weight == 0) objective.likelihood_weight = 1;
  }
  return absl::OkStatus();
}

// One order of a pair.
at::Tensor LossOf(const PreferenceObjective& objective, const CompletionLogprobs& chosen,
                  const CompletionLogprobs& rejected) {
  switch (objective.kind) {
    case PreferenceObjective::Kind::kMargin:
      if (!objective.means) {
        return SimpoLoss(objective.pairs.beta, objective.target_margin,
                         objective.pairs.label_smoothing, chosen.policy, rejected.policy);
      }
      return SimpoLoss(objective.pairs.beta, objective.target_margin,
                       objective.pairs.label_smoothing, chosen.policy.div(chosen.tokens),
                       rejected.policy.div(rejected.tokens));
    case PreferenceObjective::Kind::kOddsRatio:
      return OddsRatioLoss(chosen.policy.div(chosen.tokens), rejected.policy.div(rejected.tokens));
    default:
      return PairwiseLoss(objective.pairs, {.chosen = chosen.policy,
                                            .rejected = rejected.policy,
                                            .reference_chosen = chosen.reference,
                                            .reference_rejected = rejected.reference,
                                            .chosen_tokens = chosen.tokens,
                                            .rejected_tokens = rejected.tokens});
  }
}

at::Tensor RewardsOf(const PreferenceObjective& objective, const CompletionLogprobs& completions) {
  at::Tensor logprobs = completions.policy.detach();
  if (objective.needs_reference()) {
    logprobs = logprobs.sub(completions.reference);
  } else if (objective.means || objective.kind == PreferenceObjective::Kind::kOddsRatio) {
    logprobs = logprobs.div(completions.tokens);
  }
  return logprobs.mul(objective.pairs.beta);
}

}  // namespace

absl::StatusOr<PreferenceObjective> ComposePreferenceObjective(
    v1::Stage stage, const v1::PreferenceSection& section) {
  if (!section.has_beta()) {
    return absl::InvalidArgumentError("preference.beta: is not set");
  }
  PreferenceObjective objective;
  objective.pairs.beta = section.beta();
  objective.pairs.label_smoothing = section.label_smoothing();
  switch (stage) {
    case v1::STAGE_DPO:
      if (absl::Status status = ComposeDpo(section, objective); !status.ok()) return status;
      return objective;
    case v1::STAGE_SIMPO:
      if (!IsPlain(section.loss())) return WrongLoss(stage, section.loss());
      objective.kind = PreferenceObjective::Kind::kMargin;
      objective.means = section.mean_log_prob();
      objective.target_margin = section.target_margin();
      objective.likelihood_weight = section.sft_weight();
      return objective;
    case v1::STAGE_ORPO:
      if (!IsPlain(section.loss())) return WrongLoss(stage, section.loss());
      objective.kind = PreferenceObjective::Kind::kOddsRatio;
      objective.preference_weight = section.beta();
      objective.likelihood_weight = 1;
      return objective;
    case v1::STAGE_KTO:
      if (!IsPlain(section.loss()) && section.loss() != v1::PREFERENCE_LOSS_APO_ZERO) {
        return WrongLoss(stage, section.loss());
      }
      objective.kind = PreferenceObjective::Kind::kLabelled;
      objective.kl_baseline = IsPlain(section.loss());
      objective.labelled = {.beta = section.beta(),
                            .desirable_weight = section.desirable_weight(),
                            .undesirable_weight = section.undesirable_weight()};
      return objective;
    default:
      return absl::InvalidArgumentError("stage: has no objective of preferences");
  }
}

PreferenceLosses LossesOfPairs(const PreferenceObjective& objective,
                               const CompletionLogprobs& chosen, const CompletionLogprobs& rejected,
                               const at::Tensor& preference) {
  PreferenceLosses result;
  result.losses = LossOf(objective, chosen, rejected);
  if (preference.defined()) {
    result.losses = result.losses.mul(preference)
                        .add(LossOf(objective, rejected, chosen).mul(preference.neg().add(1)));
  }
  result.chosen_rewards = RewardsOf(objective, chosen);
  result.rejected_rewards = RewardsOf(objective, rejected);
  return result;
}

PreferenceLosses LossesOfLabelled(const PreferenceObjective& objective,
                                  const CompletionLogprobs& completions,
                                  const at::Tensor& desirable, double kl) {
  PreferenceLosses result;
  result.losses =
      LabelledLoss(objective.labelled, completions.policy.sub(completions.reference.detach()),
                   desirable, objective.kl_baseline ? kl : 0);
  result.chosen_rewards = RewardsOf(objective, completions);
  return result;
}

}  // namespace rollcall::learner
