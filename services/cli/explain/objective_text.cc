#include "services/cli/explain/objective_text.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/config/algorithm_presets.h"
#include "common/config/preference_rules.h"
#include "services/cli/explain/preference_text.h"

namespace rollcall::explain {
namespace {

bool HasKl(const v1::AlgorithmSection& algorithm) { return algorithm.kl_coefficient() > 0; }
bool KlInReward(const v1::AlgorithmSection& algorithm) {
  return HasKl(algorithm) && algorithm.kl_placement() == v1::KL_PLACEMENT_REWARD;
}

std::string Clip(const v1::AlgorithmSection& algorithm) {
  return absl::StrCat("clip(ρ, ", 1 - algorithm.clip_low(), ", ", 1 + algorithm.clip_high(), ")");
}

std::string PolicyTerm(const v1::AlgorithmSection& algorithm) {
  std::string term;
  switch (algorithm.policy_loss()) {
    case v1::POLICY_LOSS_TYPE_CISPO:
      term = absl::StrCat("−sg(", Clip(algorithm), ")·A·log π");
      break;
    case v1::POLICY_LOSS_TYPE_REINFORCE:
      term = "−A·log π";
      break;
    default: {
      const std::string ratio =
          algorithm.ratio_cap() > 0 ? absl::StrCat("min(ρ, ", algorithm.ratio_cap(), ")") : "ρ";
      term = absl::StrCat("max(−A·", ratio, ", −A·", Clip(algorithm), ")");
      if (algorithm.dual_clip() > 0) {
        term = absl::StrCat("min(", term, ", −", algorithm.dual_clip(), "·A where A < 0)");
      }
    }
  }
  return algorithm.behavior_correction() > v1::BEHAVIOR_CORRECTION_NONE ? absl::StrCat("w·", term)
                                                                        : term;
}

std::string TokenLoss(const v1::AlgorithmSection& algorithm) {
  std::string loss = PolicyTerm(algorithm);
  if (HasKl(algorithm) && !KlInReward(algorithm)) {
    absl::StrAppend(&loss, " + ", algorithm.kl_coefficient(), "·KL");
  }
  if (algorithm.entropy_coefficient() > 0) {
    absl::StrAppend(&loss, " − ", algorithm.entropy_coefficient(), "·H");
  }
  return loss;
}

std::string Aggregate(const v1::RunConfig& config) {
  switch (config.algorithm().aggregation()) {
    case v1::LOSS_AGGREGATION_TOKEN_MEAN:
      return "1/T · Σ_i Σ_t ℓ(i,t)";
    case v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_SUM:
      return "1/S · Σ_i Σ_t ℓ(i,t)";
    case v1::LOSS_AGGREGATION_CONSTANT_LENGTH:
      return absl::StrCat("1/(S·", config.sampling().max_tokens(), ") · Σ_i Σ_t ℓ(i,t)");
    default:
      return "1/S · Σ_i 1/T_i · Σ_t ℓ(i,t)";
  }
}

std::string RatioText(const v1::AlgorithmSection& algorithm) {
  const std::string old = algorithm.behavior_correction() > v1::BEHAVIOR_CORRECTION_NONE
                              ? "; π_old: the policy before the batch's first update"
                              : "; π_old: the policy that sampled the token";
  std::string log_ratio = "log π − log π_old";
  if (algorithm.max_log_ratio() > 0) {
    log_ratio = absl::StrCat("clamp(", log_ratio, ", ±", algorithm.max_log_ratio(), ")");
  }
  switch (algorithm.ratio_level()) {
    case v1::RATIO_LEVEL_SEQUENCE_MEAN:
      return absl::StrCat("ρ = exp(1/T_i · Σ_t ", log_ratio, "), one for the sequence", old);
    case v1::RATIO_LEVEL_SEQUENCE_MEAN_TOKEN:
      return absl::StrCat("ρ = exp(1/T_i · Σ_t ", log_ratio,
                          "), one for the sequence, its gradient that of the token", old);
    case v1::RATIO_LEVEL_SEQUENCE_SUM:
      return absl::StrCat("ρ = exp(Σ_t ", log_ratio, "), one for the sequence", old);
    default:
      return absl::StrCat("ρ = exp(", log_ratio, "), token by token", old);
  }
}

std::string Centred(const v1::AlgorithmSection& algorithm) {
  switch (algorithm.advantage_baseline()) {
    case v1::ADVANTAGE_BASELINE_LEAVE_ONE_OUT:
      return "r − mean of the other samples' r";
    case v1::ADVANTAGE_BASELINE_LENGTH_WEIGHTED:
      return "r − Σ(length·r) / Σ length of the group";
    case v1::ADVANTAGE_BASELINE_GREEDY:
      return absl::StrCat("Σ_{u ≥ t} ", algorithm.gamma(),
                          "^(u−t)·r_u − r of the prompt's greedy completion");
    case v1::ADVANTAGE_BASELINE_NONE:
      if (algorithm.gamma() == 0) return "r_t, each token's own";
      return absl::StrCat("Σ_{u ≥ t} ", algorithm.gamma(), "^(u−t)·r_u");
    case v1::ADVANTAGE_BASELINE_CRITIC:
      return absl::StrCat("Σ_{u ≥ t} (", algorithm.gamma(), "·", algorithm.gae_lambda(),
                          ")^(u−t)·δ_u, δ_t = r_t + ", algorithm.gamma(), "·V_{t+1} − V_t");
    default:
      return "r − mean of the group";
  }
}

std::string AdvantageText(const v1::AlgorithmSection& algorithm) {
  const std::string centred = Centred(algorithm);
  switch (algorithm.advantage_normalization()) {
    case v1::ADVANTAGE_NORMALIZATION_GROUP_STD:
      return absl::StrCat("A = (", centred, ") / (std of the group + ",
                          algorithm.advantage_epsilon(), ")");
    case v1::ADVANTAGE_NORMALIZATION_BATCH_STD:
      return absl::StrCat("A = (", centred, ") / (std of the batch's r + ",
                          algorithm.advantage_epsilon(), ")");
    case v1::ADVANTAGE_NORMALIZATION_WHITEN:
      return absl::StrCat("A = whiten(", centred, ") over the batch's tokens");
    default:
      return absl::StrCat("A = ", centred);
  }
}

std::string ReferenceText(const v1::RunConfig& config) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  if (algorithm.preset() == v1::ALGORITHM_PRESET_DISTILLATION) {
    return absl::StrCat("π_ref is the teacher, ", config.reference().model_path());
  }
  if (algorithm.reference_refresh_steps() == 1) return "π_ref becomes π after every step";
  return algorithm.reference_refresh_steps() > 0
             ? absl::StrCat("π_ref becomes π every ", algorithm.reference_refresh_steps(), " steps")
             : "π_ref is frozen";
}

std::string KlText(const v1::RunConfig& config) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  std::string value;
  switch (algorithm.kl_estimator()) {
    case v1::KL_ESTIMATOR_K1:
      value = "d (k1)";
      break;
    case v1::KL_ESTIMATOR_K2:
      value = "d²/2 (k2)";
      break;
    case v1::KL_ESTIMATOR_ABS:
      value = "|d|";
      break;
    default:
      value = "exp(−d) − 1 + d (k3)";
  }
  std::string text = absl::StrCat("KL = ", value, ", d = log π − log π_ref");
  if (algorithm.kl_max_value() > 0) {
    absl::StrAppend(&text, ", within ±", algorithm.kl_max_value());
  }
  if (algorithm.kl_straight_through()) absl::StrAppend(&text, "; its gradient is k2's");
  if (KlInReward(algorithm)) {
    absl::StrAppend(&text, "; r_t loses ", algorithm.kl_coefficient(),
                    "·KL_t under the rollout's log-probs");
  }
  if (algorithm.kl_target() > 0) {
    absl::StrAppend(&text, "; the coefficient adapts to a KL of ", algorithm.kl_target(), " over ",
                    algorithm.kl_horizon(), " sequences");
  }
  absl::StrAppend(&text, "; ", ReferenceText(config));
  return text;
}

std::string CorrectionText(const v1::AlgorithmSection& algorithm) {
  return absl::StrCat("w from π_old/π_rollout: ",
                      LowerName(v1::BehaviorCorrection_Name(algorithm.behavior_correction()),
                                "BEHAVIOR_CORRECTION_"),
                      " within [", algorithm.behavior_min(), ", ", algorithm.behavior_max(), "]");
}

std::string VerifierTerm(const v1::VerifierConfig& verifier) {
  return verifier.weight() == 1 ? verifier.name()
                                : absl::StrCat(verifier.weight(), "·", verifier.name());
}

std::string RewardText(const v1::RunConfig& config) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  std::vector<std::string> terms, gates;
  for (const v1::VerifierConfig& verifier : config.reward().verifiers()) {
    if (verifier.weight() != 0) terms.push_back(VerifierTerm(verifier));
    if (verifier.has_gate()) {
      gates.push_back(absl::StrCat(verifier.reward_if_gated(), " where ", verifier.name(), " < ",
                                   verifier.gate()));
    }
  }
  std::string text =
      absl::StrCat("r = ", terms.empty() ? "0, no verifier counts" : absl::StrJoin(terms, " + "));
  for (const std::string& gate : gates) absl::StrAppend(&text, "; ", gate);
  if (algorithm.reward_clip() > 0) {
    absl::StrAppend(&text, "; clamped to ±", algorithm.reward_clip());
  }
  if (algorithm.missing_eos_penalty() > 0) {
    absl::StrAppend(&text, "; less ", algorithm.missing_eos_penalty(), " where it was cut off");
  }
  if (algorithm.overlong_buffer() > 0) {
    absl::StrAppend(&text, "; less up to ", algorithm.overlong_factor(), " over the last ",
                    algorithm.overlong_buffer(), " of ", config.sampling().max_tokens(), " tokens");
  }
  if (algorithm.reward_whitening()) {
    absl::StrAppend(&text, "; token rewards divided by their std over the batch");
  }
  if (algorithm.shuffle_rewards()) absl::StrAppend(&text, "; permuted within the batch");
  return text;
}

std::string FilterText(const v1::AlgorithmSection& algorithm) {
  std::vector<std::string> parts = {absl::StrCat(
      "groups with fewer than ", algorithm.min_valid_samples(), " scored samples are dropped")};
  if (algorithm.dynamic_sampling()) {
    const std::string& metric = algorithm.dynamic_sampling_metric();
    parts.push_back(absl::StrCat("groups of equal ", metric.empty() ? "rewards" : metric,
                                 " are dropped and replaced, by at most ",
                                 algorithm.max_sampling_rounds(), " times the batch's prompts"));
  }
  if (algorithm.mask_truncated()) {
    parts.push_back("completions that were cut off count for their group, not for the loss");
  }
  return absl::StrJoin(parts, "; ");
}

std::vector<Line> DescribePairs(const v1::RunConfig& config) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  const bool ipo = algorithm.preference_loss() == v1::PREFERENCE_LOSS_IPO;
  return {
      {"loss", ipo ? absl::StrCat("L = 1/P · Σ (h − 1/(2·", algorithm.beta(), "))²  (IPO)")
                   : absl::StrCat("L = 1/P · Σ −log σ(", algorithm.beta(), "·h)  (DPO)")},
      {"margin",
       "h = (log π − log π_ref of the chosen) − (log π − log π_ref of the rejected), summed over "
       "each completion"},
      {"pairs", absl::StrCat(algorithm.pair_selection() == v1::PAIR_SELECTION_FIRST_TWO
                                 ? "the first two samples of a group, by reward"
                                 : "the best and the worst sample of a group",
                             "; ties are dropped and counted")},
      {"reference", ReferenceText(config)},
      {"reward", RewardText(config)},
      {"filters", FilterText(algorithm)}};
}

std::vector<Line> DescribeValue(const v1::CriticSection& critic) {
  return {
      {"value loss", critic.clip() > 0
                         ? absl::StrCat("L_V = ", critic.coefficient(),
                                        " · mean of max((V − R)², (clip(V, V_old ± ", critic.clip(),
                                        ") − R)²), R = A + V_old, its own optimizer")
                         : absl::StrCat("L_V = ", critic.coefficient(),
                                        " · mean of (V − R)², R = A + V_old, its own optimizer")}};
}

std::vector<Line> DescribePolicyGradient(const v1::RunConfig& config) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  std::vector<Line> lines = {{"loss", absl::StrCat("L = ", Aggregate(config))},
                             {"token loss", absl::StrCat("ℓ = ", TokenLoss(algorithm))}};
  if (algorithm.policy_loss() != v1::POLICY_LOSS_TYPE_REINFORCE) {
    lines.push_back({"ratio", RatioText(algorithm)});
  }
  lines.push_back({"advantage", AdvantageText(algorithm)});
  lines.push_back({"reward", RewardText(config)});
  if (HasKl(algorithm)) lines.push_back({"KL", KlText(config)});
  if (algorithm.entropy_coefficient() > 0) {
    lines.push_back({"entropy", "H = −Σ π log π over the vocabulary at the token"});
  }
  if (algorithm.behavior_correction() > v1::BEHAVIOR_CORRECTION_NONE) {
    lines.push_back({"correction", CorrectionText(algorithm)});
  }
  if (algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC) {
    for (Line& line : DescribeValue(config.learner().critic())) lines.push_back(std::move(line));
  }
  lines.push_back({"filters", FilterText(algorithm)});
  return lines;
}

std::vector<Line> DescribeRewardModel(const v1::RunConfig& config) {
  std::string loss = "L = 1/P · Σ −log σ(r_chosen − r_rejected";
  if (!config.data().margin_column().empty()) absl::StrAppend(&loss, " − m");
  absl::StrAppend(&loss, ")");
  if (config.learner().reward_centering() > 0) {
    absl::StrAppend(&loss, " + ", config.learner().reward_centering(), "·(r_chosen + r_rejected)²");
  }
  std::vector<Line> lines = {{"loss", loss + "  (Bradley–Terry)"},
                             {"reward", "r: the head's value at the sequence's last token"}};
  if (!config.data().margin_column().empty()) {
    lines.push_back({"margin", absl::StrCat("m: the column ", config.data().margin_column())});
  }
  if (!config.data().preference_column().empty()) {
    lines.push_back(
        {"soft labels",
         absl::StrCat("p·L(chosen, rejected) + (1 − p)·L(rejected, chosen), p: the column ",
                      config.data().preference_column())});
  }
  return lines;
}

Line LossDenominator(const v1::RunConfig& config) {
  constexpr char kSequences[] =
      "S: sequences of the mini-batch with a token in the loss, over all micro-batches and ranks";
  switch (config.algorithm().aggregation()) {
    case v1::LOSS_AGGREGATION_TOKEN_MEAN:
      return {"loss",
              "T: tokens in the loss of the whole mini-batch, over all micro-batches and ranks: a "
              "long completion weighs more than a short one"};
    case v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_SUM:
      return {"loss", absl::StrCat(kSequences, "; a token weighs the same in each")};
    case v1::LOSS_AGGREGATION_CONSTANT_LENGTH:
      return {"loss",
              absl::StrCat(kSequences, ", times sampling.max_tokens (",
                           config.sampling().max_tokens(), "), however long the completions are")};
    default:
      return {"loss",
              absl::StrCat(kSequences,
                           "; T_i: the sequence's own tokens in the loss: a token of a long "
                           "completion weighs less")};
  }
}

}  // namespace

std::string LowerName(const std::string& value_name, const std::string& prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(value_name, prefix));
}

std::vector<Line> DescribeObjective(const v1::RunConfig& config) {
  if (config::LearnsFromPreferences(config.stage())) return DescribePreferences(config);
  switch (config.stage()) {
    case v1::STAGE_EVAL:
      return {{"loss", "none: held-out prompts are scored, nothing is trained"},
              {"reward", RewardText(config)}};
    case v1::STAGE_REWARD_MODEL:
      return DescribeRewardModel(config);
    case v1::STAGE_SFT:
      return {{"loss", "L = 1/T · Σ_i Σ_t −log π(y_t)"},
              {"tokens", "y: the completions' tokens; prompts have no loss"}};
    default:
      return config::TakesPairs(config.algorithm()) ? DescribePairs(config)
                                                    : DescribePolicyGradient(config);
  }
}

std::vector<Line> DescribeDenominators(const v1::RunConfig& config) {
  if (config.stage() == v1::STAGE_EVAL) return {};
  if (config::LearnsFromPreferences(config.stage())) return PreferenceDenominators(config);
  if (config.stage() == v1::STAGE_REWARD_MODEL) {
    return {{"loss", "P: pairs of the whole batch, over all micro-batches and ranks"}};
  }
  if (config.stage() == v1::STAGE_SFT) {
    return {{"loss", "T: completion tokens of the whole batch, over all micro-batches and ranks"}};
  }
  const v1::AlgorithmSection& algorithm = config.algorithm();
  if (config::TakesPairs(algorithm)) {
    return {{"loss", "P: pairs of the whole mini-batch, over all micro-batches and ranks"}};
  }
  std::vector<Line> lines = {LossDenominator(config)};
  switch (algorithm.advantage_normalization()) {
    case v1::ADVANTAGE_NORMALIZATION_GROUP_STD:
      lines.push_back({"advantage",
                       "std of the group's scored samples, dividing by their number less one; a "
                       "group of equal rewards has advantage 0"});
      break;
    case v1::ADVANTAGE_NORMALIZATION_BATCH_STD:
      lines.push_back(
          {"advantage",
           "std of all rewards of the rollout batch, dividing by their number less one"});
      break;
    case v1::ADVANTAGE_NORMALIZATION_WHITEN:
      lines.push_back({"advantage",
                       "mean and variance over all tokens in the loss of the rollout batch, "
                       "dividing by their number less one"});
      break;
    default:
      lines.push_back({"advantage", "nothing: rewards keep their scale"});
  }
  if (algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC) {
    lines.push_back({"value loss", "tokens in the loss of the whole mini-batch"});
  }
  return lines;
}

}  // namespace rollcall::explain
