// Advantages of verl, TRL and OpenRLHF.
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/cli/verify/objective_case.h"
#include "services/learner/algorithms/advantage.h"
#include "services/learner/algorithms/behavior_correction.h"
#include "services/learner/algorithms/reward_shaping.h"
#include "services/learner/algorithms/token_advantage.h"

namespace rollcall::verify {
namespace {

using Json = nlohmann::json;
using learner::GroupNormalization;

constexpr char kMask[] = "response_mask";
constexpr learner::WhitenOptions kVerlWhitening = {.added_count = 1e-8};

at::Tensor Value(const absl::StatusOr<at::Tensor>& advantages) {
  TORCH_CHECK(advantages.ok(), advantages.status().ToString());
  return *advantages;
}

// [rows] spread over each row's tokens, in the order of PackedTokens.
at::Tensor Spread(const at::Tensor& of_rows, const PackedTokens& tokens) {
  return of_rows.index_select(0, tokens.sequence_of);
}

// Row after row, masked positions included.
at::Tensor Flat(const at::Tensor& rectangle) { return rectangle.reshape({-1}).contiguous(); }

at::Tensor PackFlat(const at::Tensor& flat, const PackedTokens& tokens) {
  return tokens.Pack(flat.reshape({tokens.rows, tokens.width}));
}

// The group ids 0 0 0 0 1 1 1 1 … of `count` sequences.
at::Tensor ConsecutiveGroups(int64_t count, int64_t group_size) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(i / group_size);
  return at::tensor(ids, at::kLong);
}

void ReplayVerlGae(const ObjectiveCase& golden, bool carry, at::ScalarType dtype,
                   CaseErrors& errors) {
  const Json hyper = golden.hyper();
  const PackedTokens tokens(golden, kMask);
  const at::Tensor mask = Flat(golden.In(kMask, dtype));
  const auto estimate = learner::GeneralizedAdvantages(
      Flat(golden.In("token_level_rewards", dtype)), Flat(golden.In("values", dtype)), mask,
      tokens.row_lengths,
      {.gamma = hyper["gamma"], .lambda = hyper["lam"], .carry_over_masked = carry});
  const at::Tensor advantages =
      carry ? learner::Whiten(estimate.advantages, mask, kVerlWhitening) : estimate.advantages;
  errors.Tensor(PackFlat(advantages, tokens), tokens.Pack(golden.Out("advantages", dtype)));
  errors.Tensor(PackFlat(estimate.returns, tokens), tokens.Pack(golden.Out("returns", dtype)));
}

void ReplayRewardToGo(const ObjectiveCase& golden, double gamma, at::ScalarType dtype,
                      CaseErrors& errors) {
  const PackedTokens tokens(golden, kMask);
  const at::Tensor mask = Flat(golden.In(kMask, dtype));
  const at::Tensor returns =
      learner::RewardToGo(Flat(golden.In("token_level_rewards", dtype)), mask, tokens.row_lengths,
                          gamma, learner::GapRule::kCarryOver);
  errors.Tensor(PackFlat(returns, tokens), tokens.Pack(golden.Out("returns", dtype)));
  errors.Tensor(PackFlat(learner::Whiten(returns, mask, kVerlWhitening), tokens),
                tokens.Pack(golden.Out("advantages", dtype)));
}

absl::StatusOr<at::Tensor> VerlSequenceAdvantages(const std::string& estimator,
                                                  const at::Tensor& rewards,
                                                  const at::Tensor& groups,
                                                  const PackedTokens& tokens) {
  if (estimator == "rloo" || estimator == "rloo_vectorized") {
    return learner::LeaveOneOutAdvantages(rewards, groups);
  }
  if (estimator == "opo") {
    return learner::LengthWeightedAdvantages(rewards, groups, at::tensor(tokens.counts, at::kLong));
  }
  const bool std = estimator == "grpo" || estimator == "grpo_vectorized";
  return learner::GroupNormalizedAdvantages(
      rewards, groups,
      {.normalization =
           std ? v1::ADVANTAGE_NORMALIZATION_GROUP_STD : v1::ADVANTAGE_NORMALIZATION_NONE,
       .epsilon = 1e-6});
}

void ReplayVerlOutcome(const ObjectiveCase& golden, const std::string& estimator,
                       at::ScalarType dtype, CaseErrors& errors) {
  const PackedTokens tokens(golden, kMask);
  const at::Tensor rewards = golden.In("token_level_rewards", dtype).sum(1);
  at::Tensor advantages;
  if (estimator == "remax") {
    advantages = learner::GreedyBaselineAdvantages(rewards, golden.In("reward_baselines", dtype));
  } else {
    advantages =
        Value(VerlSequenceAdvantages(estimator, rewards, golden.In("group", at::kLong), tokens));
  }
  at::Tensor of_tokens = Spread(advantages, tokens);
  if (estimator == "reinforce_plus_plus_baseline") {
    of_tokens = learner::Whiten(of_tokens, of_tokens.mul(0).add(1), kVerlWhitening);
  }
  errors.Tensor(of_tokens, tokens.Pack(golden.Out("advantages", dtype)));
}

}  // namespace

CasePlan PlanAdvantagesVerl(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  CasePlan plan;
  plan.residue = golden.set() == "near_equal" || golden.set() == "large";
  const std::string estimator = hyper.value("estimator", "");
  if (estimator.empty()) {
    const bool rpp = golden.name().find(".reinforce_plus_plus") != std::string::npos;
    const bool carry = golden.name().find(".gae_openrlhf") == std::string::npos;
    plan.options = rpp     ? "masked tokens as if not there; whiten"
                   : carry ? "carry_over_masked, whiten"
                           : "masked tokens have value and reward 0";
    plan.replay = [&golden, rpp, carry](at::ScalarType dtype, CaseErrors& errors) {
      if (rpp) {
        ReplayRewardToGo(golden, golden.hyper()["gamma"], dtype, errors);
      } else {
        ReplayVerlGae(golden, carry, dtype, errors);
      }
    };
    return plan;
  }
  if (estimator == "reinforce_plus_plus" || estimator == "reinforce_plus_plus_gamma") {
    const double gamma = hyper["config"]["gamma"];
    plan.options = "advantage_baseline none, advantage_normalization whiten";
    plan.replay = [&golden, gamma](at::ScalarType dtype, CaseErrors& errors) {
      ReplayRewardToGo(golden, gamma, dtype, errors);
    };
    return plan;
  }
  static const std::set<std::string> kOurs = {"grpo",
                                              "dr_grpo",
                                              "grpo_vectorized",
                                              "rloo",
                                              "rloo_vectorized",
                                              "opo",
                                              "remax",
                                              "reinforce_plus_plus_baseline"};
  if (!kOurs.contains(estimator)) {
    return NotSupported(
        absl::StrCat("verl's ", estimator, " estimator is not one of Rollcall's objectives"));
  }
  if (golden.set() == "singleton" && estimator != "remax") {
    return NotSupported("a group of one is an error here; verl has the raw reward or 0");
  }
  if (estimator == "grpo" || estimator == "grpo_vectorized") {
    plan.options = "advantage_epsilon 1e-6";
  }
  plan.float32_only = estimator == "grpo_vectorized";  // the reference casts to float32 inside
  plan.replay = [&golden, estimator](at::ScalarType dtype, CaseErrors& errors) {
    ReplayVerlOutcome(golden, estimator, dtype, errors);
  };
  return plan;
}

namespace {

struct TrlRewards {
  std::vector<int64_t> scored;  // rows with a reward
  std::vector<float> rewards;
};

// Weighted sums of what each function gave; a row that none could score has none.
TrlRewards ScoredRewards(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  const std::vector<float> weights = hyper["reward_weights"].get<std::vector<float>>();
  const at::Tensor each = golden.In("rewards", at::kFloat);
  TrlRewards result;
  for (int64_t row = 0; row < each.size(0); ++row) {
    float sum = 0;
    bool any = false;
    for (int64_t column = 0; column < each.size(1); ++column) {
      const float value = each[row][column].item<float>();
      if (std::isnan(value)) continue;
      any = true;
      sum += value * weights[static_cast<size_t>(column)];
    }
    if (!any) continue;
    if (hyper.contains("reward_clip_range")) {
      sum = std::clamp(sum, hyper["reward_clip_range"][0].get<float>(),
                       hyper["reward_clip_range"][1].get<float>());
    }
    result.scored.push_back(row);
    result.rewards.push_back(sum);
  }
  return result;
}

void ReplayTrl(const ObjectiveCase& golden, CaseErrors& errors) {
  const Json hyper = golden.hyper();
  const TrlRewards scored = ScoredRewards(golden);
  const at::Tensor rows = at::tensor(scored.scored, at::kLong);
  const at::Tensor rewards = at::tensor(scored.rewards, at::kFloat);
  const int64_t count = golden.In("rewards", at::kFloat).size(0);
  const at::Tensor groups =
      ConsecutiveGroups(count, hyper["num_generations"].get<int64_t>()).index_select(0, rows);
  at::Tensor advantages;
  if (hyper.contains("scale_rewards")) {
    const std::string scale = hyper["scale_rewards"];
    advantages = Value(learner::GroupNormalizedAdvantages(
        rewards, groups,
        {.normalization = scale == "group"   ? v1::ADVANTAGE_NORMALIZATION_GROUP_STD
                          : scale == "batch" ? v1::ADVANTAGE_NORMALIZATION_BATCH_STD
                                             : v1::ADVANTAGE_NORMALIZATION_NONE,
         .epsilon = 1e-4}));
  } else {
    advantages = Value(learner::LeaveOneOutAdvantages(rewards, groups));
    if (hyper.value("normalize_advantages", false)) {
      advantages = learner::BatchNormalized(advantages, 1e-4);
    }
  }
  const at::Tensor expected = golden.Out("advantages", at::kFloat);
  errors.Tensor(advantages, expected.index_select(0, rows));
  errors.Number(expected.abs().sum().item<double>(),
                expected.index_select(0, rows).abs().sum().item<double>());
}

void ReplayImportanceRatio(const ObjectiveCase& golden, CaseErrors& errors) {
  static const std::map<std::string, v1::BehaviorCorrection> kModes = {
      {"token_truncate", v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE},
      {"token_mask", v1::BEHAVIOR_CORRECTION_TOKEN_MASK},
      {"sequence_truncate", v1::BEHAVIOR_CORRECTION_SEQUENCE_TRUNCATE},
      {"sequence_mask", v1::BEHAVIOR_CORRECTION_SEQUENCE_MASK}};
  const Json hyper = golden.hyper();
  const PackedTokens tokens(golden, kMask);
  const at::Tensor proximal = tokens.Pack(golden.In("old_log_prob", at::kFloat));
  at::Tensor behavior = tokens.Pack(golden.In("rollout_log_prob", at::kFloat));
  behavior = behavior.where(behavior.ne(999), proximal);  // missing: ratio 1
  const at::Tensor weights = learner::BehaviorWeights(
      {.mode = kModes.at(hyper["mode"]),
       .min = hyper["clip_min"].is_number() ? hyper["clip_min"].get<double>() : 0.0,
       .max = hyper["clip_max"].is_number() ? hyper["clip_max"].get<double>() : 1e300},
      proximal, behavior, tokens.sequence_of, tokens.rows);
  errors.Tensor(weights, tokens.Pack(golden.Out("importance_sampling_ratio", at::kFloat)));
}

}  // namespace

CasePlan PlanAdvantagesTrl(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  if (hyper.contains("multi_objective_aggregation")) {
    return NotSupported("normalising each verifier's score by itself is not offered");
  }
  CasePlan plan;
  plan.residue = golden.set() == "near_equal" || golden.set() == "large";
  if (hyper.contains("mode")) {
    plan.options = absl::StrCat("behavior_correction ", hyper["mode"].get<std::string>());
    plan.replay = [&golden](at::ScalarType, CaseErrors& errors) {
      ReplayImportanceRatio(golden, errors);
    };
    return plan;
  }
  plan.options = hyper.contains("scale_rewards") ? "advantage_epsilon 1e-4" : "";
  if (golden.set() == "unscorable") {
    plan.options = "sequences without a reward left out";
  }
  plan.replay = [&golden](at::ScalarType, CaseErrors& errors) { ReplayTrl(golden, errors); };
  return plan;
}

namespace {

void ReplayOpenRlhf(const ObjectiveCase& golden, at::ScalarType dtype, CaseErrors& errors) {
  const Json hyper = golden.hyper();
  const std::string estimator = hyper["estimator"];
  const PackedTokens tokens(golden, kMask);
  const at::Tensor mask = Flat(golden.In(kMask, dtype));
  at::Tensor scores = golden.In("scores", dtype);
  const at::Tensor groups =
      ConsecutiveGroups(scores.size(0), hyper["n_samples_per_prompt"].get<int64_t>());
  if (estimator == "rloo") {
    scores = Value(learner::LeaveOneOutAdvantages(scores, groups));
  } else if (estimator != "gae" && estimator != "reinforce") {
    scores = Value(learner::GroupNormalizedAdvantages(
        scores, groups,
        {.normalization = estimator == "group_norm" ? v1::ADVANTAGE_NORMALIZATION_GROUP_STD
                                                    : v1::ADVANTAGE_NORMALIZATION_NONE,
         .epsilon = 1e-9}));
  }
  const at::Tensor rewards = learner::TokenRewards(scores, Flat(golden.In("kl", dtype)), mask,
                                                   tokens.row_lengths, hyper["init_kl_coef"]);
  at::Tensor advantages, returns;
  if (estimator == "gae") {
    const auto estimate = learner::GeneralizedAdvantages(
        rewards, Flat(golden.In("values", dtype)), mask, tokens.row_lengths,
        {.gamma = hyper["gamma"], .lambda = hyper["lambd"], .carry_over_masked = false});
    advantages = estimate.advantages;
    returns = estimate.returns;
  } else {
    returns = learner::RewardToGo(rewards, mask, tokens.row_lengths, hyper["gamma"],
                                  learner::GapRule::kDropMaskedRewards);
    advantages = returns;
  }
  if (estimator == "gae" || estimator == "reinforce" || estimator == "reinforce_baseline") {
    advantages = learner::Whiten(advantages, mask, {.unbiased = false, .added = 0, .least = 1e-8});
  }
  errors.Tensor(PackFlat(advantages, tokens), tokens.Pack(golden.Out("advantages", dtype)));
  errors.Tensor(PackFlat(returns, tokens), tokens.Pack(golden.Out("returns", dtype)));
}

}  // namespace

CasePlan PlanAdvantagesOpenRlhf(const ObjectiveCase& golden) {
  const std::string estimator = golden.hyper().value("estimator", "");
  static const std::set<std::string> kOurs = {"gae",        "reinforce",          "rloo",
                                              "group_norm", "reinforce_baseline", "dr_grpo"};
  if (!kOurs.contains(estimator)) {
    return NotSupported(
        absl::StrCat("OpenRLHF's ", estimator, " is not one of Rollcall's objectives"));
  }
  CasePlan plan;
  plan.options = estimator == "group_norm" ? "advantage_epsilon 1e-9"
                 : estimator == "rloo" || estimator == "dr_grpo"
                     ? ""
                     : "whitening with the biased variance";
  plan.replay = [&golden](at::ScalarType dtype, CaseErrors& errors) {
    ReplayOpenRlhf(golden, dtype, errors);
  };
  return plan;
}

}  // namespace rollcall::verify
