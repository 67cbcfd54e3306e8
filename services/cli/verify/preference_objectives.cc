// Losses of recorded preferences: DPO and its relatives, SimPO, CPO, ORPO and KTO.
#include <ATen/core/Tensor.h>

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/cli/verify/objective_case.h"
#include "services/learner/algorithms/preference_objective.h"

namespace rollcall::verify {
namespace {

using Json = nlohmann::json;
using learner::CompletionLogprobs;
using learner::PreferenceObjective;

// The section that gives the reference's numbers, and the stage that reads it.
struct Recipe {
  v1::Stage stage = v1::STAGE_UNSPECIFIED;
  v1::PreferenceSection section;
  // In float64 as the file has it: a section holds float32.
  double beta = 0.1;
  std::string options;
};

const std::map<std::string, v1::PreferenceLoss>& TrlLosses() {
  static const std::map<std::string, v1::PreferenceLoss> losses = {
      {"sigmoid", v1::PREFERENCE_LOSS_SIGMOID},
      {"ipo", v1::PREFERENCE_LOSS_IPO},
      {"hinge", v1::PREFERENCE_LOSS_HINGE},
      {"robust", v1::PREFERENCE_LOSS_ROBUST},
      {"sigmoid_norm", v1::PREFERENCE_LOSS_SIGMOID_NORM},
      {"apo_zero", v1::PREFERENCE_LOSS_APO_ZERO},
      {"apo_down", v1::PREFERENCE_LOSS_APO_DOWN},
      {"nca_pair", v1::PREFERENCE_LOSS_NCA_PAIR},
      {"bco_pair", v1::PREFERENCE_LOSS_BCO_PAIR},
      {"sppo_hard", v1::PREFERENCE_LOSS_SPPO_HARD},
      {"discopop", v1::PREFERENCE_LOSS_DISCOPOP},
      {"sft", v1::PREFERENCE_LOSS_SFT}};
  return losses;
}

// One term of TRL's DPO with its weight in the sum.
struct Term {
  std::string loss;
  double weight = 1;
};

std::vector<Term> TermsOf(const Json& hyper) {
  const Json type = hyper.value("loss_type", Json("sigmoid"));
  if (type.is_string()) return {{type.get<std::string>(), 1}};
  std::vector<Term> terms;
  const Json weights = hyper.value("loss_weights", Json::array());
  for (size_t i = 0; i < type.size(); ++i) {
    terms.push_back({type[i].get<std::string>(), weights.empty() ? 1 : weights[i].get<double>()});
  }
  return terms;
}

PreferenceObjective Compose(const Recipe& recipe) {
  v1::PreferenceSection section = recipe.section;
  section.set_beta(static_cast<float>(recipe.beta));
  absl::StatusOr<PreferenceObjective> objective =
      learner::ComposePreferenceObjective(recipe.stage, section);
  TORCH_CHECK(objective.ok(), objective.status().ToString());
  objective->pairs.beta = objective->labelled.beta = recipe.beta;
  if (objective->kind == PreferenceObjective::Kind::kOddsRatio) {
    objective->preference_weight = recipe.beta;
  }
  return *std::move(objective);
}

// Per-token log-probs of one side of pairs, as leaves of the gradient.
struct Side {
  Side(const ObjectiveCase& golden, const std::string& name, at::ScalarType dtype)
      : mask(golden.In(name + "_mask", dtype)),
        tokens(golden.In(name + "_log_prob", dtype).requires_grad_(true)) {
    logprobs = {
        .policy = tokens.mul(mask).sum(1),
        .reference = golden.In(absl::StrCat("ref_", name, "_log_prob"), dtype).mul(mask).sum(1),
        .tokens = mask.sum(1)};
  }

  at::Tensor mask;    // [pairs, width]
  at::Tensor tokens;  // [pairs, width]
  CompletionLogprobs logprobs;
};

// On the tokens of the completions: the references sum padded log-probs, too, which are constants.
void CompareGradient(const at::Tensor& leaf, const at::Tensor& mask, const at::Tensor& expected,
                     CaseErrors& errors) {
  errors.Tensor(leaf.grad().mul(mask), expected.mul(mask));
}

void CompareNumber(const ObjectiveCase& golden, const std::string& number, at::ScalarType dtype,
                   const at::Tensor& ours, CaseErrors& errors) {
  // The reference's figures are float32 in either precision.
  if (dtype != at::kFloat || !golden.item()["expected"].contains(number)) return;
  errors.Number(ours.to(at::kDouble).mean().item<double>(), golden.Expected(number, dtype));
}

// The loss of the whole batch; rewards of the last objective are compared where the reference
// reports them.
void ReplayPairs(const ObjectiveCase& golden,
                 const std::vector<std::pair<PreferenceObjective, double>>& terms,
                 at::ScalarType dtype, CaseErrors& errors) {
  const Side chosen(golden, "chosen", dtype), rejected(golden, "rejected", dtype);
  const at::Tensor likelihood = chosen.tokens.mul(chosen.mask).sum().div(chosen.mask.sum()).neg();
  at::Tensor loss;
  learner::PreferenceLosses pairs;
  for (const auto& [objective, weight] : terms) {
    pairs = learner::LossesOfPairs(objective, chosen.logprobs, rejected.logprobs);
    const at::Tensor term = pairs.losses.mean()
                                .mul(objective.preference_weight * weight)
                                .add(likelihood, objective.likelihood_weight * weight);
    loss = loss.defined() ? loss.add(term) : term;
  }
  loss.backward();
  errors.Number(loss.item<double>(), golden.Expected("loss", dtype));
  CompareGradient(chosen.tokens, chosen.mask, golden.Out("grad_chosen_log_prob", dtype), errors);
  CompareGradient(rejected.tokens, rejected.mask, golden.Out("grad_rejected_log_prob", dtype),
                  errors);
  CompareNumber(golden, "rewards/chosen", dtype, pairs.chosen_rewards, errors);
  CompareNumber(golden, "rewards/rejected", dtype, pairs.rejected_rewards, errors);
  CompareNumber(golden, "nll_loss", dtype, likelihood, errors);
}

void ReplayLabelled(const ObjectiveCase& golden, const PreferenceObjective& objective,
                    at::ScalarType dtype, CaseErrors& errors) {
  const at::Tensor mask = golden.In("mask", dtype);
  at::Tensor tokens = golden.In("log_prob", dtype).requires_grad_(true);
  const CompletionLogprobs completions{
      .policy = tokens.mul(mask).sum(1),
      .reference = golden.In("ref_log_prob", dtype).mul(mask).sum(1),
      .tokens = mask.sum(1)};
  const at::Tensor mismatched =
      golden.In("kl_log_prob", dtype).sub(golden.In("ref_kl_log_prob", dtype)).to(at::kDouble);
  const double kl =
      learner::KlBaseline(mismatched.sum().item<double>(), static_cast<double>(mismatched.size(0)));
  const learner::PreferenceLosses losses =
      learner::LossesOfLabelled(objective, completions, golden.In("label", dtype), kl);
  const at::Tensor loss = losses.losses.mean();
  loss.backward();
  errors.Number(loss.item<double>(), golden.Expected("loss", dtype));
  if (objective.kl_baseline && dtype == at::kFloat) {
    errors.Number(kl, golden.Expected("kl", dtype));
  }
  CompareGradient(tokens, mask, golden.Out("grad_log_prob", dtype), errors);
}

CasePlan PlanPairs(const ObjectiveCase& golden,
                   std::vector<std::pair<PreferenceObjective, double>> terms, std::string options) {
  CasePlan plan;
  plan.options = std::move(options);
  plan.replay = [&golden, terms = std::move(terms)](at::ScalarType dtype, CaseErrors& errors) {
    ReplayPairs(golden, terms, dtype, errors);
  };
  return plan;
}

CasePlan PlanTrlDpo(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  std::vector<std::pair<PreferenceObjective, double>> terms;
  std::vector<std::string> names;
  for (const Term& term : TermsOf(hyper)) {
    const auto loss = TrlLosses().find(term.loss);
    if (loss == TrlLosses().end()) {
      return NotSupported(absl::StrCat("loss_type ", term.loss, " is not offered"));
    }
    Recipe recipe{.stage = v1::STAGE_DPO, .beta = hyper.value("beta", 0.1)};
    recipe.section.set_loss(loss->second);
    recipe.section.set_mean_log_prob(term.loss == "ipo");
    PreferenceObjective objective = Compose(recipe);
    if (term.loss == "robust")
      objective.pairs.label_smoothing = hyper.value("label_smoothing", 0.0);
    terms.emplace_back(std::move(objective), term.weight);
    names.push_back(term.loss == "ipo" ? "loss ipo, mean_log_prob"
                                       : absl::StrCat("loss ", term.loss));
  }
  std::string options = names.front();
  if (terms.size() > 1) options = "a sum of losses: sft_weight is the ratio of the weights";
  if (golden.name().find("bco_pair") != std::string::npos) options += ", without BCO's shift";
  return PlanPairs(golden, std::move(terms), options);
}

CasePlan PlanOpenRlhfDpo(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  const bool ipo = hyper.value("ipo", false);
  Recipe recipe{.stage = v1::STAGE_DPO, .beta = hyper.value("beta", 0.1)};
  recipe.section.set_loss(ipo ? v1::PREFERENCE_LOSS_IPO : v1::PREFERENCE_LOSS_SIGMOID);
  PreferenceObjective objective = Compose(recipe);
  objective.pairs.label_smoothing = hyper.value("label_smoothing", 0.0);
  return PlanPairs(golden, {{objective, 1}},
                   ipo ? "loss ipo, sums" : "loss sigmoid, label_smoothing");
}

CasePlan PlanCpo(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  const bool simpo = hyper.contains("simpo_gamma");
  Recipe recipe{.stage = v1::STAGE_SIMPO, .beta = hyper.value("beta", 0.1)};
  recipe.section.set_mean_log_prob(simpo);
  PreferenceObjective objective = Compose(recipe);
  objective.target_margin = hyper.value("simpo_gamma", 0.0);
  objective.pairs.label_smoothing = hyper.value("label_smoothing", 0.0);
  return PlanPairs(golden, {{objective, 1}},
                   simpo ? "stage simpo, target_margin its simpo_gamma"
                         : "stage simpo, mean_log_prob false, target_margin 0");
}

CasePlan PlanKto(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  const bool apo = hyper.value("loss_type", "kto") == "apo_zero_unpaired";
  Recipe recipe{.stage = v1::STAGE_KTO, .beta = hyper.value("beta", 0.1)};
  recipe.section.set_loss(apo ? v1::PREFERENCE_LOSS_APO_ZERO : v1::PREFERENCE_LOSS_SIGMOID);
  PreferenceObjective objective = Compose(recipe);
  objective.labelled.desirable_weight = hyper.value("desirable_weight", 1.0);
  objective.labelled.undesirable_weight = hyper.value("undesirable_weight", 1.0);
  CasePlan plan;
  plan.options = apo ? "stage kto, loss apo_zero" : "stage kto";
  plan.replay = [&golden, objective](at::ScalarType dtype, CaseErrors& errors) {
    ReplayLabelled(golden, objective, dtype, errors);
  };
  return plan;
}

CasePlan PlanOrpo(const ObjectiveCase& golden) {
  Recipe recipe{.stage = v1::STAGE_ORPO, .beta = golden.hyper().value("beta", 0.1)};
  CasePlan plan = PlanPairs(golden, {{Compose(recipe), 1}},
                            "stage orpo; float32 only: the reference rounds to it inside");
  plan.float32_only = true;
  return plan;
}

}  // namespace

CasePlan PlanPreference(const ObjectiveCase& golden) {
  const std::string reference = golden.reference();
  const std::pair<const char*, CasePlan (*)(const ObjectiveCase&)> kPlanners[] = {
      {"DPOTrainer", PlanTrlDpo},
      {"DPOLoss", PlanOpenRlhfDpo},
      {"CPOTrainer", PlanCpo},
      {"ORPOTrainer", PlanOrpo},
      {"KTOTrainer", PlanKto}};
  for (const auto& [name, planner] : kPlanners) {
    if (absl::StrContains(reference, name)) return planner(golden);
  }
  return NotSupported(absl::StrCat(reference, ": no objective of this build"));
}

}  // namespace rollcall::verify
