#include "services/learner/algorithms/preference_objective.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;

v1::PreferenceSection Section(float beta = 0.5F) {
  v1::PreferenceSection section;
  section.set_beta(beta);
  section.set_target_margin(0.5F);
  section.set_desirable_weight(1);
  section.set_undesirable_weight(1);
  return section;
}

PreferenceObjective Compose(v1::Stage stage, const v1::PreferenceSection& section) {
  const auto objective = ComposePreferenceObjective(stage, section);
  EXPECT_TRUE(objective.ok()) << objective.status();
  return objective.value_or(PreferenceObjective());
}

at::Tensor Doubles(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }
double LogSigma(double x) { return -std::log1p(std::exp(-x)); }

CompletionLogprobs Completion(double policy, double reference, double tokens) {
  return {
      .policy = Doubles({policy}), .reference = Doubles({reference}), .tokens = Doubles({tokens})};
}

TEST(ComposePreferenceObjective, EveryLossOfDpoIsOffered) {
  for (int loss = v1::PreferenceLoss_MIN; loss <= v1::PreferenceLoss_MAX; ++loss) {
    v1::PreferenceSection section = Section();
    section.set_loss(static_cast<v1::PreferenceLoss>(loss));
    EXPECT_TRUE(ComposePreferenceObjective(v1::STAGE_DPO, section).ok()) << loss;
  }
}

TEST(ComposePreferenceObjective, TheOtherStagesHaveTheirOwn) {
  v1::PreferenceSection section = Section();
  section.set_loss(v1::PREFERENCE_LOSS_HINGE);
  for (const v1::Stage stage : {v1::STAGE_SIMPO, v1::STAGE_ORPO, v1::STAGE_KTO}) {
    const auto objective = ComposePreferenceObjective(stage, section);
    EXPECT_TRUE(absl::IsInvalidArgument(objective.status()));
    EXPECT_THAT(std::string(objective.status().message()), HasSubstr("has no loss hinge"));
  }
  section.set_loss(v1::PREFERENCE_LOSS_APO_ZERO);
  EXPECT_FALSE(Compose(v1::STAGE_KTO, section).kl_baseline);
  section.clear_loss();
  EXPECT_TRUE(Compose(v1::STAGE_KTO, section).kl_baseline);
  EXPECT_FALSE(Compose(v1::STAGE_SIMPO, section).needs_reference());
  EXPECT_FALSE(Compose(v1::STAGE_ORPO, section).needs_reference());
  EXPECT_TRUE(Compose(v1::STAGE_DPO, section).needs_reference());
  EXPECT_FALSE(ComposePreferenceObjective(v1::STAGE_SFT, section).ok());
  section.clear_beta();
  EXPECT_FALSE(ComposePreferenceObjective(v1::STAGE_DPO, section).ok());
}

TEST(ComposePreferenceObjective, OrpoIsLikelihoodPlusBetaTimesTheOddsRatio) {
  const PreferenceObjective orpo = Compose(v1::STAGE_ORPO, Section(0.25F));
  EXPECT_EQ(orpo.preference_weight, 0.25);
  EXPECT_EQ(orpo.likelihood_weight, 1);
}

TEST(ComposePreferenceObjective, LossSftIsTheLikelihoodAlone) {
  v1::PreferenceSection section = Section();
  section.set_loss(v1::PREFERENCE_LOSS_SFT);
  EXPECT_EQ(Compose(v1::STAGE_DPO, section).preference_weight, 0);
  EXPECT_EQ(Compose(v1::STAGE_DPO, section).likelihood_weight, 1);
  section.set_loss(v1::PREFERENCE_LOSS_SIGMOID);
  section.set_sft_weight(0.25F);
  EXPECT_EQ(Compose(v1::STAGE_DPO, section).preference_weight, 1);
  EXPECT_EQ(Compose(v1::STAGE_DPO, section).likelihood_weight, 0.25);
}

TEST(LossesOfPairs, RewardsAreWhatEachStageTakesTheMarginOf) {
  const CompletionLogprobs chosen = Completion(-4, -6, 2), rejected = Completion(-9, -8, 3);
  const auto dpo = LossesOfPairs(Compose(v1::STAGE_DPO, Section()), chosen, rejected);
  EXPECT_NEAR(dpo.chosen_rewards.item<double>(), 1, 1e-12);
  EXPECT_NEAR(dpo.rejected_rewards.item<double>(), -0.5, 1e-12);
  EXPECT_NEAR(dpo.losses.item<double>(), -LogSigma(1.5), 1e-12);
  v1::PreferenceSection means = Section(2);
  means.set_mean_log_prob(true);
  const auto simpo = LossesOfPairs(Compose(v1::STAGE_SIMPO, means), chosen, rejected);
  EXPECT_NEAR(simpo.chosen_rewards.item<double>(), -4, 1e-12);
  EXPECT_NEAR(simpo.losses.item<double>(), -LogSigma(2 - 0.5), 1e-12);
  // CPO: sums.
  const auto cpo = LossesOfPairs(Compose(v1::STAGE_SIMPO, Section(0.5F)), chosen, rejected);
  EXPECT_NEAR(cpo.losses.item<double>(), -LogSigma(2.5 - 0.5), 1e-12);
  const auto orpo = LossesOfPairs(Compose(v1::STAGE_ORPO, Section(0.1F)), chosen, rejected);
  EXPECT_NEAR(orpo.rejected_rewards.item<double>(), -0.3, 1e-7);
}

TEST(LossesOfPairs, ASoftLabelIsTheExpectedLoss) {
  const PreferenceObjective objective = Compose(v1::STAGE_DPO, Section());
  const CompletionLogprobs chosen = Completion(-4, -6, 2), rejected = Completion(-9, -8, 3);
  const double right = LossesOfPairs(objective, chosen, rejected).losses.item<double>();
  const double wrong = LossesOfPairs(objective, rejected, chosen).losses.item<double>();
  EXPECT_NEAR(LossesOfPairs(objective, chosen, rejected, Doubles({0.75})).losses.item<double>(),
              0.75 * right + 0.25 * wrong, 1e-12);
  EXPECT_NEAR(LossesOfPairs(objective, chosen, rejected, Doubles({1})).losses.item<double>(), right,
              1e-12);
  // At one half the pair says nothing: no gradient at a margin of 0.
  CompletionLogprobs even = Completion(-6, -6, 2);
  even.policy.requires_grad_(true);
  LossesOfPairs(objective, even, Completion(-8, -8, 3), Doubles({0.5})).losses.sum().backward();
  EXPECT_NEAR(even.policy.grad().item<double>(), 0, 1e-12);
}

TEST(LossesOfLabelled, TheKlIsUsedByKtoAlone) {
  const CompletionLogprobs completion = Completion(-4, -6, 2);
  v1::PreferenceSection section = Section();
  const PreferenceObjective kto = Compose(v1::STAGE_KTO, section);
  section.set_loss(v1::PREFERENCE_LOSS_APO_ZERO);
  const PreferenceObjective apo = Compose(v1::STAGE_KTO, section);
  const at::Tensor desirable = Doubles({1});
  const auto loss = [&](const PreferenceObjective& objective, double kl) {
    return LossesOfLabelled(objective, completion, desirable, kl).losses.item<double>();
  };
  EXPECT_NEAR(loss(kto, 2), 0.5, 1e-12);
  EXPECT_EQ(loss(apo, 2), loss(apo, 0));
  EXPECT_EQ(loss(apo, 0), loss(kto, 0));
  EXPECT_NEAR(LossesOfLabelled(kto, completion, desirable, 2).chosen_rewards.item<double>(), 1,
              1e-12);
}

}  // namespace
}  // namespace rollcall::learner
