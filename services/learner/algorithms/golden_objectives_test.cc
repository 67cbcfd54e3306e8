// Replays what verl's, TRL's and OpenRLHF's own code computed (golden/objectives): values and
// gradients, in float32 and in float64 where the reference kept it.
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/checkpoint/parameters.h"
#include "services/learner/algorithms/advantage.h"
#include "services/learner/algorithms/aggregation.h"
#include "services/learner/algorithms/kl.h"
#include "services/learner/algorithms/token_loss.h"

namespace rollcall::learner {
namespace {

using nlohmann::json;

struct Tolerance {
  double relative;
  double absolute;
};
// golden/README.md, "objectives".
constexpr Tolerance kFloat32 = {1e-5, 1e-6};
constexpr Tolerance kFloat64 = {1e-9, 1e-9};

// One file of cases with its tensors.
class GoldenGroup {
 public:
  explicit GoldenGroup(const std::string& name) {
    const char* data = std::getenv("ROLLCALL_TEST_DATA");
    const std::string stem =
        std::string(data == nullptr ? "" : data) + "/golden/objectives/" + name;
    if (!std::filesystem::exists(stem + ".json")) return;
    cases_ = json::parse(std::ifstream(stem + ".json"))["cases"];
    auto tensors = checkpoint::LoadTensors(stem + ".safetensors");
    EXPECT_TRUE(tensors.ok()) << tensors.status();
    if (tensors.ok()) tensors_ = *std::move(tensors);
  }

  bool present() const { return !cases_.empty(); }
  const json& cases() const { return cases_; }

  at::Tensor In(const json& item, const std::string& name, at::ScalarType dtype) const {
    return tensors_.at(Name(item) + "/in/" + name).to(dtype, false, /*copy=*/true);
  }
  at::Tensor Out(const json& item, const std::string& name, at::ScalarType dtype) const {
    return tensors_.at(Name(item) + (dtype == at::kDouble ? "/out64/" : "/out/") + name);
  }
  bool Has(const json& item, const std::string& path) const {
    return tensors_.contains(Name(item) + "/" + path);
  }

  static std::string Name(const json& item) { return item["name"].get<std::string>(); }
  // The batch or reward set that the case runs on.
  static std::string Set(const json& item) { return Name(item).substr(0, Name(item).find('.')); }

 private:
  json cases_;
  std::map<std::string, at::Tensor> tensors_;
};

void ExpectClose(const at::Tensor& actual, const at::Tensor& expected, const Tolerance& tolerance,
                 const std::string& what) {
  const at::Tensor a = actual.detach().to(at::kDouble).contiguous();
  const at::Tensor e = expected.to(at::kDouble).contiguous();
  ASSERT_EQ(a.numel(), e.numel()) << what;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.const_data_ptr<double>()[i], y = e.const_data_ptr<double>()[i];
    ASSERT_LE(std::abs(x - y), tolerance.absolute + tolerance.relative * std::abs(y))
        << what << " entry " << i << ": " << x << " instead of " << y;
  }
}

std::vector<int64_t> RowCounts(const at::Tensor& mask) {
  const at::Tensor counts = mask.sum(1).to(at::kLong).contiguous();
  return {counts.const_data_ptr<int64_t>(), counts.const_data_ptr<int64_t>() + counts.numel()};
}

// The entries of a [rows, width] tensor that the mask keeps, row after row.
at::Tensor Packed(const at::Tensor& values, const at::Tensor& mask) {
  return values.masked_select(mask.to(at::kBool));
}

at::Tensor Weights(v1::LossAggregation aggregation, const std::vector<int64_t>& counts,
                   const LossDenominators& denominators, at::ScalarType dtype) {
  // The float32 weights would bound a float64 comparison, so these are divided again in the case's
  // own dtype.
  std::vector<double> exact;
  for (const int64_t count : counts) {
    const double divisor = aggregation == v1::LOSS_AGGREGATION_TOKEN_MEAN
                               ? static_cast<double>(denominators.tokens)
                               : static_cast<double>(denominators.sequences * count);
    exact.insert(exact.end(), static_cast<size_t>(count), 1.0 / divisor);
  }
  const std::vector<float> weights = TokenWeights(aggregation, counts, denominators);
  if (dtype == at::kFloat) return at::tensor(weights);
  const at::Tensor result = at::tensor(exact);
  ExpectClose(at::tensor(weights), result, {1e-7, 0}, "weights");
  return result;
}

struct PolicyCase {
  v1::LossAggregation aggregation = v1::LOSS_AGGREGATION_TOKEN_MEAN;
  ClipRange clip;
  double kl_coefficient = 0;
  LossDenominators denominators;
};

void ReplayPolicyLoss(const GoldenGroup& group, const json& item, const PolicyCase& setting,
                      at::ScalarType dtype) {
  const Tolerance tolerance = dtype == at::kDouble ? kFloat64 : kFloat32;
  const std::string name = GoldenGroup::Name(item);
  const json& expected = item[dtype == at::kDouble ? "expected64" : "expected"];
  const at::Tensor mask = group.In(item, "response_mask", at::kFloat);
  at::Tensor advantages = group.Has(item, "in/advantages")
                              ? group.In(item, "advantages", dtype)
                              : group.In(item, "sequence_advantages", dtype).unsqueeze(1);
  advantages = Packed(advantages.expand_as(mask), mask);
  const at::Tensor old = Packed(group.In(item, "old_log_prob", dtype), mask);
  at::Tensor all = group.In(item, "log_prob", dtype).requires_grad_(true);
  const at::Tensor logprobs = Packed(all, mask);

  Objective objective{.clip = setting.clip, .kl_coefficient = setting.kl_coefficient};
  TokenInputs inputs{.logprobs = logprobs, .old_logprobs = old, .advantages = advantages};
  if (objective.needs_reference()) {
    inputs.reference_logprobs = Packed(group.In(item, "ref_log_prob", dtype), mask);
  }
  const TokenLoss token_loss = ObjectiveLoss(objective, inputs);
  const at::Tensor weights =
      Weights(setting.aggregation, RowCounts(mask), setting.denominators, dtype);
  const at::Tensor loss = token_loss.total.mul(weights).sum();
  loss.backward();
  ExpectClose(loss, at::tensor(expected["loss"].get<double>()), tolerance, name + " loss");
  ExpectClose(all.grad(), group.Out(item, "grad_log_prob", dtype), tolerance, name + " gradient");

  const double tokens = static_cast<double>(logprobs.numel());
  const double low = token_loss.policy.clipped_low.sum().item<double>() / tokens;
  const double high = token_loss.policy.clipped_high.sum().item<double>() / tokens;
  if (expected.contains("pg_clipfrac")) {
    EXPECT_NEAR(low + high, expected["pg_clipfrac"].get<double>(), 1e-6) << name;
  } else {
    EXPECT_NEAR(low, expected["clip_ratio/low_mean"].get<double>(), 1e-6) << name;
    EXPECT_NEAR(high, expected["clip_ratio/high_mean"].get<double>(), 1e-6) << name;
  }
}

LossDenominators Denominators(const GoldenGroup& group, const json& item) {
  return CountDenominators(RowCounts(group.In(item, "response_mask", at::kFloat)));
}

// verl's vanilla loss where its dual clip does not bind: that is another objective.
std::optional<PolicyCase> VerlCase(const GoldenGroup& group, const json& item) {
  const json& hyper = item["hyper"];
  if (hyper.value("loss", "") != "vanilla" || hyper.value("dp_size", 1) != 1 ||
      group.Has(item, "in/rollout_is_weights") ||
      item["expected"].value("pg_clipfrac_lower", 1.0) != 0) {
    return std::nullopt;
  }
  PolicyCase setting;
  const std::string mode = hyper["loss_agg_mode"];
  if (mode == "seq-mean-token-mean") {
    setting.aggregation = v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
  } else if (mode != "token-mean") {
    return std::nullopt;
  }
  setting.clip = {.low = hyper["clip_ratio_low"], .high = hyper["clip_ratio_high"]};
  setting.denominators = Denominators(group, item);
  if (hyper.contains("batch_num_tokens")) {
    setting.denominators = {.sequences = hyper["global_batch_size"],
                            .tokens = hyper["batch_num_tokens"]};
  }
  return setting;
}

std::optional<PolicyCase> TrlCase(const GoldenGroup& group, const json& item) {
  const json& hyper = item["hyper"];
  for (const char* other :
       {"level", "delta", "quantile", "entropy_coef", "off_policy", "use_is", "bias_correction"}) {
    if (hyper.contains(other)) return std::nullopt;
  }
  const std::string type = hyper.value("loss_type", "");
  if (type != "grpo" && type != "dapo" && type != "bnpo") return std::nullopt;
  PolicyCase setting;
  setting.clip.low = hyper.value("epsilon", 0.2);
  setting.clip.high = hyper.value("epsilon_high", setting.clip.low);
  setting.kl_coefficient = hyper.value("beta", 0.0);
  setting.denominators = Denominators(group, item);
  if (type == "grpo") {
    setting.aggregation = v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;
    // TRL counts rows without a token; accumulation divides each micro-batch by their number.
    setting.denominators.sequences =
        group.In(item, "response_mask", at::kFloat).size(0) * hyper.value("accumulation", 1);
  } else if (group.Has(item, "in/num_items")) {
    setting.denominators.tokens = group.In(item, "num_items", at::kDouble).sum().item<int64_t>();
  }
  return setting;
}

TEST(GoldenObjectives, PolicyLosses) {
  int replayed = 0;
  for (const auto& [file, reader] :
       {std::pair{"policy_loss_verl", &VerlCase}, std::pair{"policy_loss_trl", &TrlCase}}) {
    const GoldenGroup group(file);
    if (!group.present()) GTEST_SKIP() << "no golden objectives under ROLLCALL_TEST_DATA";
    for (const json& item : group.cases()) {
      const auto setting = reader(group, item);
      if (!setting.has_value()) continue;
      ReplayPolicyLoss(group, item, *setting, at::kFloat);
      ReplayPolicyLoss(group, item, *setting, at::kDouble);
      ++replayed;
    }
  }
  EXPECT_GE(replayed, 38);
}

std::optional<v1::KlEstimator> KlCase(const json& item) {
  const json& hyper = item["hyper"];
  const bool verl = hyper.contains("kl_penalty");
  if (!verl && hyper["unbiased_gradient"].get<bool>()) return std::nullopt;
  const std::map<std::string, v1::KlEstimator> names = {
      {"kl", v1::KL_ESTIMATOR_K1},  {"k1", v1::KL_ESTIMATOR_K1},
      {"mse", v1::KL_ESTIMATOR_K2}, {"k2", v1::KL_ESTIMATOR_K2},
      {"k3", v1::KL_ESTIMATOR_K3},  {"low_var_kl", v1::KL_ESTIMATOR_K3}};
  const auto found = names.find(hyper[verl ? "kl_penalty" : "kl_estimator"]);
  if (found == names.end()) return std::nullopt;
  // Where the references clamp, they differ from each other and from us.
  const bool clamped = !verl || found->second == v1::KL_ESTIMATOR_K3;
  if (GoldenGroup::Set(item) == "extreme" && clamped) return std::nullopt;
  return found->second;
}

TEST(GoldenObjectives, KlEstimators) {
  const GoldenGroup group("kl");
  if (!group.present()) GTEST_SKIP() << "no golden objectives under ROLLCALL_TEST_DATA";
  int replayed = 0;
  for (const json& item : group.cases()) {
    const auto estimator = KlCase(item);
    if (!estimator.has_value()) continue;
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      if (dtype == at::kDouble && !group.Has(item, "out64/kl")) continue;
      const Tolerance tolerance = dtype == at::kDouble ? kFloat64 : kFloat32;
      const std::string name = GoldenGroup::Name(item);
      const at::Tensor mask = group.In(item, "response_mask", dtype);
      at::Tensor logprobs = group.In(item, "log_prob", dtype).requires_grad_(true);
      const at::Tensor kl = EstimateKl(*estimator, logprobs, group.In(item, "ref_log_prob", dtype));
      kl.mul(mask).sum().backward();
      ExpectClose(kl, group.Out(item, "kl", dtype), tolerance, name);
      ExpectClose(logprobs.grad(), group.Out(item, "grad_log_prob", dtype), tolerance,
                  name + " gradient");
    }
    ++replayed;
  }
  EXPECT_GE(replayed, 24);
}

void ReplayVerlAdvantages(const GoldenGroup& group, const json& item, at::ScalarType dtype) {
  const std::string name = GoldenGroup::Name(item);
  const at::Tensor mask = group.In(item, "response_mask", dtype);
  const at::Tensor rewards = group.In(item, "token_level_rewards", dtype).mul(mask).sum(1);
  GroupNormalization options{.epsilon = 1e-6};
  if (item["hyper"]["estimator"] == "dr_grpo") {
    options.normalization = v1::ADVANTAGE_NORMALIZATION_GROUP_MEAN;
  }
  const auto advantages =
      GroupNormalizedAdvantages(rewards, group.In(item, "group", at::kLong), options);
  if (GoldenGroup::Set(item) == "singleton") {
    // verl gives a group of one its raw reward; here it is an error.
    EXPECT_EQ(advantages.status().code(), absl::StatusCode::kInvalidArgument) << name;
    return;
  }
  ASSERT_TRUE(advantages.ok()) << name << ": " << advantages.status();
  ExpectClose(Packed(advantages->unsqueeze(1).expand_as(mask), mask),
              Packed(group.Out(item, "advantages", dtype), mask),
              dtype == at::kDouble ? kFloat64 : kFloat32, name);
}

TEST(GoldenObjectives, AdvantagesOfVerl) {
  const GoldenGroup group("advantages_verl");
  if (!group.present()) GTEST_SKIP() << "no golden objectives under ROLLCALL_TEST_DATA";
  int replayed = 0;
  for (const json& item : group.cases()) {
    const std::string estimator = item["hyper"].value("estimator", "");
    if (estimator != "grpo" && estimator != "dr_grpo") continue;
    ReplayVerlAdvantages(group, item, at::kDouble);
    // These two sets measure the residue of float32 itself.
    const std::string set = GoldenGroup::Set(item);
    if (set != "near_equal" && set != "large") ReplayVerlAdvantages(group, item, at::kFloat);
    ++replayed;
  }
  EXPECT_GE(replayed, 16);
}

TEST(GoldenObjectives, AdvantagesOfTrl) {
  const GoldenGroup group("advantages_trl");
  if (!group.present()) GTEST_SKIP() << "no golden objectives under ROLLCALL_TEST_DATA";
  int replayed = 0;
  for (const json& item : group.cases()) {
    const json& hyper = item["hyper"];
    const std::string scale = hyper.value("scale_rewards", "");
    if ((scale != "group" && scale != "none") || hyper.contains("multi_objective_aggregation")) {
      continue;
    }
    const at::Tensor each = group.In(item, "rewards", at::kFloat);
    if (each.isnan().any().item<bool>()) continue;  // unscorable: here such a sequence is left out
    if (!hyper.contains("reward_weights")) continue;  // importance ratios
    const at::Tensor weights = at::tensor(hyper["reward_weights"].get<std::vector<float>>());
    const at::Tensor rewards = each.mul(weights).sum(1);
    const at::Tensor ids = at::arange(rewards.numel(), at::kLong)
                               .floor_divide(hyper["num_generations"].get<int64_t>());
    const auto advantages = GroupNormalizedAdvantages(
        rewards, ids,
        {.normalization = scale == "group" ? v1::ADVANTAGE_NORMALIZATION_GROUP_STD
                                           : v1::ADVANTAGE_NORMALIZATION_GROUP_MEAN,
         .epsilon = 1e-4});
    ASSERT_TRUE(advantages.ok()) << GoldenGroup::Name(item) << ": " << advantages.status();
    ExpectClose(*advantages, group.Out(item, "advantages", at::kFloat), kFloat32,
                GoldenGroup::Name(item));
    ++replayed;
  }
  EXPECT_GE(replayed, 8);
}

}  // namespace
}  // namespace rollcall::learner
