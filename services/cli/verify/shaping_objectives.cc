// Critic loss, log-probs and entropy, behaviour corrections, shaped rewards, online DPO.
#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/cli/verify/objective_case.h"
#include "services/learner/algorithms/behavior_correction.h"
#include "services/learner/algorithms/kl.h"
#include "services/learner/algorithms/pairwise_loss.h"
#include "services/learner/algorithms/reward_shaping.h"
#include "services/learner/algorithms/token_loss.h"
#include "services/learner/algorithms/value_loss.h"

namespace rollcall::verify {
namespace {

using Json = nlohmann::json;

constexpr char kMask[] = "response_mask";

v1::LossAggregation AggregationOf(const Json& hyper) {
  if (hyper.contains("token_level_loss")) {
    return hyper["token_level_loss"].get<bool>() ? v1::LOSS_AGGREGATION_TOKEN_MEAN
                                                 : v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
  }
  const std::string mode = hyper.value("loss_agg_mode", "");
  TORCH_CHECK(mode == "token-mean" || mode == "seq-mean-token-mean" || mode == "seq-mean-token-sum",
              "aggregation ", mode);
  return mode == "token-mean"            ? v1::LOSS_AGGREGATION_TOKEN_MEAN
         : mode == "seq-mean-token-mean" ? v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN
                                         : v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_SUM;
}

}  // namespace

CasePlan PlanValueLoss(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  const Json range = hyper.value("cliprange_value", hyper.value("clip_eps", Json()));
  CasePlan plan;
  plan.padded_denominators =
      hyper.contains("clip_eps") || hyper.value("loss_agg_mode", "") == "seq-mean-token-mean";
  plan.replay = [&golden, hyper, range](at::ScalarType dtype, CaseErrors& errors) {
    const PackedTokens tokens(golden, kMask);
    at::Tensor all = golden.In("vpreds", dtype).requires_grad_(true);
    const learner::ValueLoss value = learner::ClippedValueLoss(
        tokens.Pack(all), tokens.Pack(golden.In("values", dtype)),
        tokens.Pack(golden.In("returns", dtype)), range.is_number() ? range.get<double>() : 0.0);
    const at::Tensor loss =
        Aggregate(value.loss, AggregationOf(hyper), tokens, tokens.denominators);
    loss.backward();
    errors.Number(loss.item<double>(), golden.Expected("loss", dtype));
    errors.Tensor(all.grad(), golden.Out("grad_vpreds", dtype));
    const double clipped = golden.Expected("vf_clipfrac", at::kFloat);
    if (!std::isnan(clipped) && dtype == at::kFloat) {
      errors.Number(value.clipped.to(at::kDouble).mean().item<double>(), clipped);
    }
  };
  return plan;
}

namespace {

struct Bounds {
  v1::BehaviorCorrection mode = v1::BEHAVIOR_CORRECTION_NONE;
  double min = 0;
  double max = 0;
};

// "0.9_1.1" or a number.
bool ParseBounds(const Json& threshold, double& min, double& max) {
  if (threshold.is_number()) {
    max = threshold;
    return true;
  }
  const std::string text = threshold;
  const size_t split = text.find('_');
  return split != std::string::npos && absl::SimpleAtod(text.substr(0, split), &min) &&
         absl::SimpleAtod(text.substr(split + 1), &max);
}

}  // namespace

CasePlan PlanRolloutCorrection(const ObjectiveCase& golden) {
  const Json hyper = golden.hyper();
  if (hyper.value("rollout_is_batch_normalize", false)) {
    return NotSupported("weights normalised over the batch are not offered");
  }
  const std::string rejection = hyper.value("rollout_rs", "");
  static const std::map<std::string, v1::BehaviorCorrection> kRejections = {
      {"token_k1", v1::BEHAVIOR_CORRECTION_TOKEN_MASK},
      {"seq_sum_k1", v1::BEHAVIOR_CORRECTION_SEQUENCE_MASK},
      {"seq_mean_k1", v1::BEHAVIOR_CORRECTION_SEQUENCE_MEAN_MASK}};
  if (!rejection.empty() && (hyper.contains("rollout_is") || !kRejections.contains(rejection))) {
    return NotSupported(absl::StrCat("rejection ", rejection,
                                     hyper.contains("rollout_is") ? " beside weights" : "",
                                     " is not offered"));
  }
  Bounds bounds;
  if (!ParseBounds(hyper.contains("rollout_is") ? hyper["rollout_is_threshold"]
                                                : hyper["rollout_rs_threshold"],
                   bounds.min, bounds.max)) {
    return NotSupported("thresholds of that form are not known");
  }
  if (rejection.empty()) {
    const bool sequence = hyper["rollout_is"] == "sequence";
    const bool truncate = hyper["rollout_is_threshold"].is_number();
    bounds.mode = sequence   ? truncate ? v1::BEHAVIOR_CORRECTION_SEQUENCE_TRUNCATE
                                        : v1::BEHAVIOR_CORRECTION_SEQUENCE_MASK
                  : truncate ? v1::BEHAVIOR_CORRECTION_TOKEN_TRUNCATE
                             : v1::BEHAVIOR_CORRECTION_TOKEN_MASK;
  } else {
    bounds.mode = kRejections.at(rejection);
    // verl judges the inverse weight, rollout / proximal: k1 is minus the log-weight.
    if (bounds.min > 0) {
      bounds = {.mode = bounds.mode, .min = 1 / bounds.max, .max = 1 / bounds.min};
    }
  }
  CasePlan plan;
  plan.options = absl::StrCat("max_log_weight 20; the reference's metrics are not compared",
                              rejection.empty() ? "" : ", only which tokens are kept");
  plan.replay = [&golden, bounds, rejection](at::ScalarType dtype, CaseErrors& errors) {
    const PackedTokens tokens(golden, kMask);
    const at::Tensor weights = learner::BehaviorWeights(
        {.mode = bounds.mode, .min = bounds.min, .max = bounds.max, .max_log_weight = 20},
        tokens.Pack(golden.In("old_log_prob", dtype)),
        tokens.Pack(golden.In("rollout_log_prob", dtype)), tokens.sequence_of, tokens.rows);
    if (rejection.empty()) {
      errors.Tensor(weights, tokens.Pack(golden.Out("rollout_is_weights", dtype)));
    } else {
      errors.Tensor(weights.ne(0).to(dtype),
                    tokens.Pack(golden.Out("modified_response_mask", dtype)));
    }
  };
  return plan;
}

namespace {

void ReplayKlInReward(const ObjectiveCase& golden, const learner::KlOptions& kl,
                      at::ScalarType dtype, CaseErrors& errors) {
  const Json hyper = golden.hyper();
  const at::Tensor mask = golden.In(kMask, dtype);
  const at::Tensor estimate =
      learner::EstimateKl(kl, golden.In("old_log_prob", dtype), golden.In("ref_log_prob", dtype))
          .mul(mask);
  const double beta = hyper["beta"];
  const int64_t rows = mask.size(0);
  const at::Tensor scores = golden.In("token_level_scores", dtype);
  const PackedTokens tokens(golden, kMask);
  const at::Tensor penalty =
      learner::TokenRewards(at::zeros({rows}, scores.options()), estimate.reshape({-1}),
                            mask.reshape({-1}), tokens.row_lengths, beta)
          .reshape(mask.sizes());
  errors.Tensor(tokens.Pack(scores.add(penalty)),
                tokens.Pack(golden.Out("token_level_rewards", dtype)));
  const double mean = estimate.sum(1).div(mask.sum(1).clamp_min(1e-8)).mean().item<double>();
  errors.Number(mean, golden.Expected("kl", dtype));
  errors.Number(learner::AdaptedKlCoefficient(beta, mean, hyper["target_kl"], hyper["horizon"],
                                              static_cast<uint64_t>(rows)),
                golden.Expected("coefficient_after", dtype));
}

CasePlan PlanController(const ObjectiveCase& golden) {
  CasePlan plan;
  plan.replay = [&golden](at::ScalarType, CaseErrors& errors) {
    for (const Json& run : golden.item()["trajectories"]) {
      double coefficient = run["init"];
      for (const Json& step : run["trace"]) {
        coefficient = learner::AdaptedKlCoefficient(coefficient, step["kl"], run["target"],
                                                    run["horizon"], step["n_steps"]);
        errors.Number(coefficient, step["value_after"]);
      }
    }
  };
  return plan;
}

CasePlan PlanOverlong(const ObjectiveCase& golden) {
  CasePlan plan;
  plan.options = "TRL, OpenRLHF: bounded; verl: not bounded";
  plan.replay = [&golden](at::ScalarType, CaseErrors& errors) {
    for (const Json& table : golden.item()["tables"]) {
      for (size_t i = 0; i < table["lengths"].size(); ++i) {
        learner::OverlongOptions options{.max_tokens = table["max_len"],
                                         .buffer = table["buffer"],
                                         .factor = table["penalty_factor"]};
        const int64_t length = table["lengths"][i];
        errors.Number(learner::OverlongPunishment(length, options), table["openrlhf"][i]);
        if (options.factor == 1) {
          errors.Number(learner::OverlongPunishment(length, options), table["trl"][i]);
        }
        options.bounded = false;
        errors.Number(learner::OverlongPunishment(length, options), table["verl"][i]);
      }
    }
  };
  return plan;
}

void ReplayOpenRlhfReward(const ObjectiveCase& golden, at::ScalarType dtype, CaseErrors& errors) {
  const Json hyper = golden.hyper();
  const PackedTokens tokens(golden, kMask);
  const at::Tensor rewards = golden.In("reward", dtype)
                                 .clamp(hyper["reward_clip_range"][0].get<double>(),
                                        hyper["reward_clip_range"][1].get<double>());
  const at::Tensor ours = learner::TokenRewards(rewards, golden.In("kl", dtype).reshape({-1}),
                                                golden.In(kMask, dtype).reshape({-1}),
                                                tokens.row_lengths, hyper["kl_coef"]);
  errors.Tensor(tokens.Pack(ours.reshape({tokens.rows, tokens.width})),
                tokens.Pack(golden.Out("token_rewards", dtype)));
}

}  // namespace

CasePlan PlanRewardShaping(const ObjectiveCase& golden) {
  if (golden.name() == "adaptive_kl_controller") return PlanController(golden);
  if (golden.name() == "overlong_punishment") return PlanOverlong(golden);
  CasePlan plan;
  const Json hyper = golden.hyper();
  if (hyper.contains("reward_clip_range")) {
    plan.options = "compared on unmasked tokens";
    plan.replay = [&golden](at::ScalarType dtype, CaseErrors& errors) {
      ReplayOpenRlhfReward(golden, dtype, errors);
    };
    return plan;
  }
  static const std::map<std::string, learner::KlOptions> kEstimators = {
      {"kl", {.estimator = v1::KL_ESTIMATOR_K1}},
      {"k2", {.estimator = v1::KL_ESTIMATOR_K2}},
      {"abs", {.estimator = v1::KL_ESTIMATOR_ABS}},
      {"low_var_kl", {.estimator = v1::KL_ESTIMATOR_K3, .max_exponent = 20, .max_value = 10}}};
  const auto kl = kEstimators.find(hyper.value("kl_penalty", ""));
  if (kl == kEstimators.end()) return NotSupported("a KL estimator that is not offered");
  plan.options = "kl_placement reward, kl_target";
  plan.padded_denominators = true;
  plan.replay = [&golden, options = kl->second](at::ScalarType dtype, CaseErrors& errors) {
    ReplayKlInReward(golden, options, dtype, errors);
  };
  return plan;
}

CasePlan PlanOnlineDpo(const ObjectiveCase& golden) {
  CasePlan plan;
  plan.options = "log-probs summed, ties prefer the first";
  plan.replay = [&golden](at::ScalarType dtype, CaseErrors& errors) {
    const Json hyper = golden.hyper();
    const at::Tensor mask = golden.In("mask", dtype);
    const int64_t pairs = mask.size(0) / 2;
    at::Tensor all = golden.In("log_prob", dtype).requires_grad_(true);
    const at::Tensor sums = all.mul(mask).sum(1);
    const at::Tensor references = golden.In("ref_log_prob", dtype).mul(mask).sum(1);
    at::Tensor rewards = golden.In("rewards", at::kDouble);
    if (hyper["missing_eos_penalty"].is_number()) {
      rewards = rewards.sub(golden.In("has_eos", at::kDouble).eq(0).to(at::kDouble),
                            hyper["missing_eos_penalty"].get<double>());
    }
    std::vector<double> first, second;
    for (int64_t i = 0; i < pairs; ++i) {
      first.push_back(rewards[i].item<double>());
      second.push_back(rewards[i + pairs].item<double>());
    }
    std::vector<int64_t> chosen, rejected;
    const std::vector<bool> preferred = learner::FirstIsPreferred(first, second);
    for (int64_t i = 0; i < pairs; ++i) {
      chosen.push_back(preferred[static_cast<size_t>(i)] ? i : i + pairs);
      rejected.push_back(preferred[static_cast<size_t>(i)] ? i + pairs : i);
    }
    const at::Tensor c = at::tensor(chosen, at::kLong), r = at::tensor(rejected, at::kLong);
    const learner::PairwiseOptions options{.type = hyper["loss_type"] == "ipo"
                                                       ? learner::PairwiseLossType::kIpo
                                                       : learner::PairwiseLossType::kSigmoid,
                                           .beta = hyper["beta"]};
    const at::Tensor loss =
        learner::PairwiseLoss(options, {.chosen = sums.index_select(0, c),
                                        .rejected = sums.index_select(0, r),
                                        .reference_chosen = references.index_select(0, c),
                                        .reference_rejected = references.index_select(0, r)})
            .mean();
    loss.backward();
    errors.Number(loss.item<double>(), golden.Expected("loss", dtype));
    errors.Tensor(all.grad(), golden.Out("grad_log_prob", dtype));
  };
  return plan;
}

}  // namespace rollcall::verify
