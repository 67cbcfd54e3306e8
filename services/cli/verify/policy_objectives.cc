// Policy losses and KL terms of verl, TRL and OpenRLHF.
#include <ATen/core/Tensor.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cli/verify/objective_case.h"
#include "services/learner/algorithms/token_loss.h"

namespace rollcall::verify {
namespace {

using learner::Objective;
using Json = nlohmann::json;

// One policy loss: what of ours reproduces it.
struct PolicyCase {
  Objective objective;
  learner::LossDenominators denominators;
  // Applied to loss and gradient: a reference that averages over ranks multiplies by their number.
  double factor = 1;
  // Importance weights given with the case instead of log-probs; [rows, width].
  std::optional<std::string> given_weights;
  // Weights that the case holds in float32 alone; the float64 comparison takes them as they are.
  std::optional<std::string> float32_weights;
  bool clip_metrics = false;
  // Wholly masked rows count in the reference's loss with the ratio 1 of an empty sum.
  bool empty_rows_count = false;
};

at::Tensor AdvantagesOf(const ObjectiveCase& golden, at::ScalarType dtype) {
  return golden.HasInput("advantages") ? golden.In("advantages", dtype)
                                       : golden.In("sequence_advantages", dtype).unsqueeze(1);
}

void CompareClipping(const ObjectiveCase& golden, const learner::PolicyLoss& loss,
                     at::ScalarType dtype, CaseErrors& errors) {
  const auto tokens = static_cast<double>(loss.ratio.numel());
  const double low = loss.clipped_low.sum().item<double>() / tokens;
  const double high = loss.clipped_high.sum().item<double>() / tokens;
  for (const auto& [name, value] :
       {std::pair("pg_clipfrac", low + high), std::pair("clip_ratio", low + high),
        std::pair("clip_ratio/low_mean", low), std::pair("clip_ratio/high_mean", high),
        std::pair("clip_ratio/region_mean", low + high)}) {
    const double expected = golden.Expected(name, at::kFloat);  // a float32 mean in either case
    if (!std::isnan(expected) && dtype == at::kFloat) errors.Number(value, expected);
  }
}

void ReplayPolicy(const ObjectiveCase& golden, const PolicyCase& setting, at::ScalarType dtype,
                  CaseErrors& errors) {
  const PackedTokens tokens(golden, "response_mask");
  at::Tensor all = golden.In("log_prob", dtype).requires_grad_(true);
  at::Tensor entropy;
  const at::Tensor logprobs = tokens.Pack(all);
  learner::TokenInputs inputs{.logprobs = logprobs,
                              .old_logprobs = logprobs.detach(),
                              .reference_logprobs = {},
                              .advantages = tokens.Pack(AdvantagesOf(golden, dtype)),
                              .behavior_logprobs = {},
                              .entropy = {},
                              .sequence_of = tokens.sequence_of,
                              .sequences = tokens.rows};
  if (golden.HasInput("old_log_prob")) {
    inputs.old_logprobs = tokens.Pack(golden.In("old_log_prob", dtype));
  }
  if (setting.objective.kl_in_loss()) {
    inputs.reference_logprobs = tokens.Pack(golden.In("ref_log_prob", dtype));
  }
  if (setting.objective.corrects_behavior()) {
    inputs.behavior_logprobs = tokens.Pack(golden.In("rollout_log_prob", dtype));
  }
  if (setting.objective.entropy_coefficient > 0) {
    entropy = golden.In("entropy", dtype).requires_grad_(true);
    inputs.entropy = tokens.Pack(entropy);
  }
  Objective objective = setting.objective;
  std::optional<std::string> weights = setting.given_weights;
  if (setting.float32_weights.has_value() && dtype == at::kDouble) {
    weights = setting.float32_weights;
    objective.correction = {};
  }
  learner::TokenLoss token_loss = learner::ObjectiveLoss(objective, inputs);
  if (weights.has_value()) {
    token_loss.total = token_loss.total.mul(tokens.Pack(golden.In(*weights, dtype)));
  }
  at::Tensor loss =
      Aggregate(token_loss.total, setting.objective.aggregation, tokens, setting.denominators)
          .mul(setting.factor);
  loss.backward();
  double value = loss.item<double>();
  if (setting.empty_rows_count) {
    const at::Tensor advantages = golden.In("sequence_advantages", at::kDouble);
    for (int64_t row = 0; row < tokens.rows; ++row) {
      if (tokens.counts[static_cast<size_t>(row)] > 0) continue;
      value -= advantages[row].item<double>() / static_cast<double>(tokens.rows);
    }
  }
  errors.Number(value, golden.Expected("loss", dtype));
  errors.Tensor(all.grad(), golden.Out("grad_log_prob", dtype));
  if (entropy.defined()) errors.Tensor(entropy.grad(), golden.Out("grad_entropy", dtype));
  if (setting.clip_metrics) CompareClipping(golden, token_loss.policy, dtype, errors);
}

CasePlan Plan(const ObjectiveCase& golden, PolicyCase setting, std::string options) {
  CasePlan plan;
  plan.options = std::move(options);
  plan.replay = [&golden, setting = std::move(setting)](at::ScalarType dtype, CaseErrors& errors) {
    ReplayPolicy(golden, setting, dtype, errors);
  };
  return plan;
}

std::optional<v1::LossAggregation> VerlAggregation(const std::string& mode) {
  static const std::map<std::string, v1::LossAggregation> modes = {
      {"token-mean", v1::LOSS_AGGREGATION_TOKEN_MEAN},
      {"seq-mean-token-mean", v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN},
      {"seq-mean-token-sum", v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_SUM},
      {"seq-mean-token-sum-norm", v1::LOSS_AGGREGATION_CONSTANT_LENGTH}};
  const auto found = modes.find(mode);
  if (found == modes.end()) return std::nullopt;
  return found->second;
}

// The loss type; false: not one of ours.
bool SetVerlLoss(const std::string& loss, PolicyCase& setting) {
  learner::PolicyLossOptions& policy = setting.objective.policy;
  policy.max_log_ratio = 20;
  if (loss == "vanilla") {
    setting.clip_metrics = true;
  } else if (loss == "gspo") {
    policy.ratio_level = v1::RATIO_LEVEL_SEQUENCE_MEAN_TOKEN;
    policy.max_log_ratio = 10;
  } else if (loss == "cispo") {
    policy.type = v1::POLICY_LOSS_TYPE_CISPO;
  } else if (loss == "reinforce") {
    policy.type = v1::POLICY_LOSS_TYPE_REINFORCE;
  } else {
    return false;
  }
  return true;
}

learner::LossDenominators DenominatorsOf(const ObjectiveCase& golden) {
  return PackedTokens(golden, "response_mask").denominators;
}

}  // namespace

CasePlan PlanPolicyLossVerl(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  const std::string mode = hyper.value("loss_agg_mode", "");
  const std::string loss = hyper.value("loss", "reinforce");
  PolicyCase setting;
  if (!SetVerlLoss(loss, setting)) {
    return NotSupported(absl::StrCat("verl's ", loss, " loss is not one of Rollcall's objectives"));
  }
  const auto aggregation = VerlAggregation(mode);
  if (!aggregation.has_value()) {
    return NotSupported(absl::StrCat(
        "aggregation ", mode, " grows with the batch; an aggregation here has denominators"));
  }
  Objective& objective = setting.objective;
  objective.aggregation = *aggregation;
  objective.policy.clip = {.low = hyper.value("clip_ratio_low", hyper.value("clip_ratio", 0.2)),
                           .high = hyper.value("clip_ratio_high", hyper.value("clip_ratio", 0.2))};
  if (loss == "vanilla") objective.policy.bounds.dual_clip = hyper.value("clip_ratio_c", 0.0);
  setting.denominators = DenominatorsOf(golden);
  setting.denominators.constant_length =
      hyper.value("loss_scale_factor", golden.In("response_mask", at::kFloat).size(1));
  setting.denominators.tokens = hyper.value("batch_num_tokens", setting.denominators.tokens);
  setting.denominators.sequences = hyper.value("global_batch_size", setting.denominators.sequences);
  setting.factor = hyper.value("dp_size", 1);
  if (golden.HasInput("rollout_is_weights")) setting.given_weights = "rollout_is_weights";
  std::string options = absl::StrCat("max_log_ratio ", objective.policy.max_log_ratio);
  if (loss == "gspo") absl::StrAppend(&options, ", ratio_level sequence_mean_token");
  if (objective.policy.bounds.dual_clip > 0) {
    absl::StrAppend(&options, ", dual_clip ", objective.policy.bounds.dual_clip);
  }
  if (setting.factor != 1) absl::StrAppend(&options, ", times the ranks that verl averages over");
  if (hyper.contains("is_weights") && hyper["is_weights"].is_string()) {
    // The weights are of the policy being trained itself: proximal = current.
    objective.correction = {.mode = v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE, .max = 2.0};
    absl::StrAppend(&options, ", behavior_correction token_truncate 2");
  }
  CasePlan plan = Plan(golden, std::move(setting), std::move(options));
  plan.padded_denominators = mode == "seq-mean-token-mean";
  return plan;
}

namespace {

const std::map<std::string, v1::BehaviorCorrection>& TrlModes() {
  static const std::map<std::string, v1::BehaviorCorrection> modes = {
      {"token_truncate", v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE},
      {"token_mask", v1::BEHAVIOR_CORRECTION_TOKEN_MASK},
      {"sequence_truncate", v1::BEHAVIOR_CORRECTION_SEQUENCE_TRUNCATE},
      {"sequence_mask", v1::BEHAVIOR_CORRECTION_SEQUENCE_MASK}};
  return modes;
}

double NumberOr(const Json& hyper, const char* name, double otherwise) {
  const auto found = hyper.find(name);
  return found == hyper.end() || !found->is_number() ? otherwise : found->get<double>();
}

// Aggregation and denominators of TRL's loss_type; false: not one of ours.
bool SetTrlType(const ObjectiveCase& golden, const std::string& type, PolicyCase& setting) {
  const Json hyper = golden.hyper();
  Objective& objective = setting.objective;
  const int64_t rows = golden.In("response_mask", at::kFloat).size(0);
  setting.denominators = DenominatorsOf(golden);
  objective.aggregation = v1::LOSS_AGGREGATION_TOKEN_MEAN;
  if (golden.HasInput("num_items")) {
    setting.denominators.tokens = golden.In("num_items", at::kDouble).sum().item<int64_t>();
  }
  if (type == "grpo") {
    objective.aggregation = v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
    // TRL counts rows without a token; accumulation divides each micro-batch by their number.
    setting.denominators.sequences = rows * hyper.value("accumulation", int64_t{1});
  } else if (type == "dr_grpo") {
    objective.aggregation = v1::LOSS_AGGREGATION_CONSTANT_LENGTH;
    setting.denominators.sequences = rows;
    setting.denominators.constant_length = hyper.value("max_completion_length", int64_t{0});
  } else if (type == "cispo") {
    objective.policy.type = v1::POLICY_LOSS_TYPE_CISPO;
  } else {
    return type == "dapo" || type == "bnpo";
  }
  return true;
}

CasePlan PlanTrlRloo(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  PolicyCase setting;
  setting.objective.policy.ratio_level = v1::RATIO_LEVEL_SEQUENCE_SUM;
  setting.objective.policy.clip = {.low = hyper.value("epsilon_low", 0.2),
                                   .high = hyper.value("epsilon_high", 0.2)};
  setting.denominators = DenominatorsOf(golden);
  setting.denominators.sequences = golden.In("response_mask", at::kFloat).size(0);
  setting.empty_rows_count = true;
  return Plan(golden, std::move(setting),
              "ratio_level sequence_sum; TRL counts wholly masked rows, too");
}

}  // namespace

CasePlan PlanPolicyLossTrl(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  if (!hyper.contains("loss_type")) return PlanTrlRloo(golden);
  for (const auto& [key, what] : {std::pair("quantile", "the mask of high-entropy tokens"),
                                  std::pair("off_policy", "TRL's off-policy sequence mask"),
                                  std::pair("bias_correction", "a KL weighted by the ratio")}) {
    if (hyper.contains(key)) return NotSupported(absl::StrCat(what, " is not offered"));
  }
  const std::string type = hyper["loss_type"];
  PolicyCase setting;
  if (!SetTrlType(golden, type, setting)) {
    return NotSupported(absl::StrCat("TRL's ", type, " loss is not one of Rollcall's objectives"));
  }
  Objective& objective = setting.objective;
  std::string options = type == "grpo" ? "TRL counts wholly masked rows, too" : "";
  objective.policy.clip.low = hyper.value("epsilon", 0.2);
  objective.policy.clip.high = hyper.value("epsilon_high", objective.policy.clip.low);
  if (type == "cispo") {
    objective.policy.clip = {.low = 1.0, .high = objective.policy.clip.high - 1};
    options = "clip_low 1, clip_high epsilon_high - 1";
  } else {
    setting.clip_metrics = hyper.value("level", "token") == "token";
  }
  if (hyper.value("level", "token") == "sequence") {
    objective.policy.ratio_level = v1::RATIO_LEVEL_SEQUENCE_MEAN;
  }
  objective.policy.bounds.ratio_cap = hyper.value("delta", 0.0);
  objective.kl_coefficient = hyper.value("beta", 0.0);
  objective.entropy_coefficient = hyper.value("entropy_coef", 0.0);
  if (hyper.value("use_is", false)) {
    objective.correction = {.mode = TrlModes().at(hyper["mode"]),
                            .min = NumberOr(hyper, "clip_min", 0),
                            .max = NumberOr(hyper, "clip_max", 1e300)};
    setting.float32_weights = "is_ratio";
    options = absl::StrCat("behavior_correction ", hyper["mode"].get<std::string>());
  }
  return Plan(golden, std::move(setting), std::move(options));
}

CasePlan PlanPolicyLossOpenRlhf(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  if (hyper.contains("is_correction_gating")) {
    return NotSupported(absl::StrCat("OpenRLHF's ",
                                     hyper["is_correction_gating"].get<std::string>(),
                                     " divergence mask is not offered"));
  }
  PolicyCase setting;
  Objective& objective = setting.objective;
  objective.policy.clip = {.low = hyper.value("clip_eps_low", 0.2),
                           .high = hyper.value("clip_eps_high", 0.2)};
  objective.policy.bounds.dual_clip = NumberOr(hyper, "dual_clip", 0);
  objective.policy.max_log_ratio = 20;
  objective.aggregation = hyper.value("token_level_loss", true)
                              ? v1::LOSS_AGGREGATION_TOKEN_MEAN
                              : v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
  std::string options = "max_log_ratio 20";
  if (hyper.value("policy_loss_type", "") == "gspo") {
    objective.policy.ratio_level = v1::RATIO_LEVEL_SEQUENCE_MEAN;
    objective.aggregation = v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
    options += ", ratio_level sequence_mean with the mean of each sample";
  }
  if (hyper.contains("is_correction_level")) {
    const bool token = hyper["is_correction_level"] == "token";
    const bool clip = hyper.value("is_correction_mode", "") == "clip";
    objective.correction = {.mode = !token ? v1::BEHAVIOR_CORRECTION_SEQUENCE_MEAN_MASK
                                    : clip ? v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE
                                           : v1::BEHAVIOR_CORRECTION_TOKEN_MASK,
                            .min = hyper["is_correction_threshold"][0],
                            .max = hyper["is_correction_threshold"][1]};
    absl::StrAppend(&options, ", behavior_correction ",
                    !token ? "sequence_mean_mask"
                    : clip ? "token_truncate"
                           : "token_mask");
  }
  setting.denominators = DenominatorsOf(golden);
  CasePlan plan = Plan(golden, std::move(setting), std::move(options));
  plan.padded_denominators = true;
  return plan;
}

CasePlan PlanKl(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  learner::KlOptions kl;
  CasePlan plan;
  if (hyper.contains("kl_penalty")) {
    static const std::map<std::string, v1::KlEstimator> names = {
        {"kl", v1::KL_ESTIMATOR_K1},  {"k1", v1::KL_ESTIMATOR_K1},
        {"mse", v1::KL_ESTIMATOR_K2}, {"k2", v1::KL_ESTIMATOR_K2},
        {"k3", v1::KL_ESTIMATOR_K3},  {"low_var_kl", v1::KL_ESTIMATOR_K3},
        {"abs", v1::KL_ESTIMATOR_ABS}};
    std::string name = hyper["kl_penalty"];
    kl.straight_through = name.back() == '+';
    if (kl.straight_through) name.pop_back();
    if (!names.contains(name)) return NotSupported(absl::StrCat("no KL estimator ", name));
    kl.estimator = names.at(name);
    if (kl.estimator == v1::KL_ESTIMATOR_K3) {
      kl.max_exponent = 20;
      kl.max_value = 10;
      plan.options = "max_exponent 20, kl_max_value 10";
    }
  } else {
    static const std::map<std::string, v1::KlEstimator> names = {
        {"k1", v1::KL_ESTIMATOR_K1}, {"k2", v1::KL_ESTIMATOR_K2}, {"k3", v1::KL_ESTIMATOR_K3}};
    kl = {.estimator = names.at(hyper["kl_estimator"]),
          .straight_through = hyper["unbiased_gradient"],
          .max_value = 10};
    plan.options = "kl_max_value 10";
  }
  if (kl.straight_through) {
    absl::StrAppend(&plan.options, plan.options.empty() ? "" : ", ", "kl_straight_through");
  }
  plan.replay = [&golden, kl](at::ScalarType dtype, CaseErrors& errors) {
    const PackedTokens tokens(golden, "response_mask");
    at::Tensor all = golden.In("log_prob", dtype).requires_grad_(true);
    const at::Tensor estimate =
        learner::EstimateKl(kl, tokens.Pack(all), tokens.Pack(golden.In("ref_log_prob", dtype)));
    estimate.sum().backward();
    errors.Tensor(estimate, tokens.Pack(golden.Out("kl", dtype)));
    errors.Tensor(all.grad(), golden.Out("grad_log_prob", dtype));
  };
  return plan;
}

}  // namespace rollcall::verify
