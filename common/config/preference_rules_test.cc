#include "common/config/preference_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/config/algorithm_presets.h"

namespace rollcall::config {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<v1::RunConfig> Load(const std::vector<std::string>& sets) {
  const std::string path = absl::StrCat(testing::TempDir(), "/preference_", getpid(), ".yaml");
  EXPECT_EQ(WriteFileAtomically(path,
                                "model: {path: m}\n"
                                "data: {train: [{path: a.jsonl}]}\n"
                                "reward: {verifiers: [{name: answer, exact_match: {}}]}\n"),
            absl::OkStatus());
  return LoadRunConfig(path, sets);
}

v1::PreferenceSection SectionOf(const std::vector<std::string>& sets) {
  const auto config = Load(sets);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? config->preference() : v1::PreferenceSection();
}

TEST(PreferenceRules, EachStageHasItsOwnBeta) {
  EXPECT_FLOAT_EQ(SectionOf({"stage=dpo"}).beta(), 0.1F);
  EXPECT_FLOAT_EQ(SectionOf({"stage=orpo"}).beta(), 0.1F);
  EXPECT_FLOAT_EQ(SectionOf({"stage=kto"}).beta(), 0.1F);
  EXPECT_FLOAT_EQ(SectionOf({"stage=simpo"}).beta(), 2);
  EXPECT_FLOAT_EQ(SectionOf({"stage=simpo", "preference.beta=0.5"}).beta(), 0.5F);
  EXPECT_FALSE(SectionOf({"stage=rl"}).has_beta());
}

TEST(PreferenceRules, SimpoTakesMeansUnlessItIsToldOtherwise) {
  EXPECT_TRUE(SectionOf({"stage=simpo"}).mean_log_prob());
  EXPECT_FALSE(SectionOf({"stage=simpo", "preference.mean_log_prob=false"}).mean_log_prob());
  EXPECT_FALSE(SectionOf({"stage=dpo", "preference.loss=ipo"}).mean_log_prob());
}

struct Case {
  std::vector<std::string> refused;
  const char* field;
  std::vector<std::string> accepted;
};

TEST(PreferenceRules, WhatAStageCannotUseIsRefusedByField) {
  const Case kCases[] = {
      {{"stage=rl", "preference.beta=0.1"},
       "preference.beta",
       {"stage=dpo", "preference.beta=0.1"}},
      {{"stage=sft", "preference.sft_weight=1"},
       "preference.sft_weight",
       {"stage=simpo", "preference.sft_weight=1"}},
      {{"stage=simpo", "preference.loss=hinge"},
       "preference.loss",
       {"stage=dpo", "preference.loss=hinge"}},
      {{"stage=orpo", "preference.loss=ipo"},
       "preference.loss",
       {"stage=dpo", "preference.loss=ipo"}},
      {{"stage=kto", "preference.loss=sppo_hard"},
       "preference.loss",
       {"stage=kto", "preference.loss=apo_zero"}},
      {{"stage=dpo", "preference.loss=hinge", "preference.label_smoothing=0.1"},
       "preference.label_smoothing",
       {"stage=dpo", "preference.label_smoothing=0.1"}},
      {{"stage=dpo", "preference.loss=robust"},
       "preference.label_smoothing",
       {"stage=dpo", "preference.loss=robust", "preference.label_smoothing=0.1"}},
      {{"stage=dpo", "preference.mean_log_prob=true"},
       "preference.mean_log_prob",
       {"stage=dpo", "preference.loss=ipo", "preference.mean_log_prob=true"}},
      {{"stage=dpo", "preference.target_margin=1"},
       "preference.target_margin",
       {"stage=simpo", "preference.target_margin=1"}},
      {{"stage=orpo", "preference.sft_weight=0.5"},
       "preference.sft_weight",
       {"stage=dpo", "preference.sft_weight=0.5"}},
      {{"stage=dpo", "preference.desirable_weight=2"},
       "preference.desirable_weight",
       {"stage=kto", "preference.desirable_weight=2"}},
      {{"stage=kto", "preference.desirable_weight=0", "preference.undesirable_weight=0"},
       "preference.desirable_weight",
       {"stage=kto", "preference.desirable_weight=0"}},
      {{"stage=simpo", "preference.reference_cache=c"},
       "preference.reference_cache",
       {"stage=kto", "preference.reference_cache=c"}},
      {{"stage=dpo", "data.margin_column=m"},
       "data.margin_column",
       {"stage=reward_model", "data.margin_column=m"}},
      {{"stage=kto", "data.preference_column=p"},
       "data.preference_column",
       {"stage=dpo", "data.preference_column=p"}},
      {{"stage=reward_model", "data.preference_column=p", "data.margin_column=m"},
       "data.margin_column",
       {"stage=reward_model", "data.preference_column=p"}},
      {{"stage=dpo", "learner.reward_centering=0.01"},
       "learner.reward_centering",
       {"stage=reward_model", "learner.reward_centering=0.01"}},
      {{"stage=kto", "learner.prompts_per_step=1"},
       "learner.prompts_per_step",
       {"stage=kto", "learner.prompts_per_step=2"}},
      {{"stage=orpo", "reference.model_path=r"},
       "reference.model_path",
       {"stage=dpo", "reference.model_path=r"}},
  };
  for (const Case& c : kCases) {
    const auto refused = Load(c.refused);
    EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << absl::StrCat(c.refused.back());
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr(absl::StrCat(": ", c.field, ": ")))
        << c.refused.back();
    EXPECT_TRUE(Load(c.accepted).ok()) << Load(c.accepted).status();
  }
}

// A reference that is the policy itself has no margin to it, ever.
TEST(PreferenceRules, APolicyIsNotItsOwnReference) {
  for (const std::string stage : {"stage=dpo", "stage=kto"}) {
    for (const std::vector<std::string>& sets : std::vector<std::vector<std::string>>{
             {"reference.addresses=[box:7400]", "learner.listen=box:7400"},
             {"reference.addresses=[box:7401]", "generator.addresses=[box:7401]"},
             {"reference.addresses=[\"127.0.0.1:7401\"]"},  // generator.listen
             {"reference.model_path=runs/mine/final", "name=mine"},
             {"reference.model_path=./runs/mine/checkpoints/step-00000010/model", "name=mine"}}) {
      std::vector<std::string> all = sets;
      all.push_back(stage);
      const auto refused = Load(all);
      EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << sets[0];
      EXPECT_THAT(std::string(refused.status().message()), HasSubstr("reference."));
    }
    EXPECT_TRUE(Load({stage, "reference.addresses=[box:7403]"}).ok());
    EXPECT_TRUE(Load({stage, "reference.model_path=runs/other/final", "name=mine"}).ok());
  }
}

TEST(PreferenceRules, ReferencesServeDpoAndKto) {
  for (const auto& [stage, needed] :
       std::vector<std::pair<v1::Stage, bool>>{{v1::STAGE_DPO, true},
                                               {v1::STAGE_KTO, true},
                                               {v1::STAGE_SIMPO, false},
                                               {v1::STAGE_ORPO, false},
                                               {v1::STAGE_REWARD_MODEL, false}}) {
    v1::RunConfig config;
    config.set_stage(stage);
    config.mutable_algorithm()->set_kl_coefficient(0.04F);
    EXPECT_EQ(NeedsReferenceService(config), needed) << v1::Stage_Name(stage);
  }
}

}  // namespace
}  // namespace rollcall::config
