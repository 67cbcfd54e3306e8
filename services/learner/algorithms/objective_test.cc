#include "services/learner/algorithms/objective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;

v1::AlgorithmSection Section() {
  v1::AlgorithmSection section;
  section.set_samples_per_prompt(8);
  section.set_min_valid_samples(2);
  section.set_clip_low(0.2f);
  section.set_clip_high(0.28f);
  section.set_kl_coefficient(0.04f);
  section.set_advantage_epsilon(1e-4f);
  return section;
}

TEST(ComposeObjective, UnsetPartsAreThePresets) {
  const auto objective = ComposeObjective(Section());
  ASSERT_TRUE(objective.ok()) << objective.status();
  EXPECT_EQ(objective->name, "grpo");
  EXPECT_EQ(objective->advantage.normalization, v1::ADVANTAGE_NORMALIZATION_GROUP_STD);
  EXPECT_EQ(objective->kl.estimator, v1::KL_ESTIMATOR_K3);
  EXPECT_EQ(objective->aggregation, v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN);
  EXPECT_FLOAT_EQ(objective->policy.clip.high, 0.28f);
  EXPECT_TRUE(objective->needs_reference());
}

TEST(ComposeObjective, SetPartsOverrideThePreset) {
  v1::AlgorithmSection section = Section();
  section.set_advantage_normalization(v1::ADVANTAGE_NORMALIZATION_GROUP_MEAN);
  section.set_kl_estimator(v1::KL_ESTIMATOR_K1);
  section.set_aggregation(v1::LOSS_AGGREGATION_TOKEN_MEAN);
  section.set_kl_coefficient(0);
  const auto objective = ComposeObjective(section);
  ASSERT_TRUE(objective.ok()) << objective.status();
  EXPECT_EQ(objective->advantage.normalization, v1::ADVANTAGE_NORMALIZATION_GROUP_MEAN);
  EXPECT_EQ(objective->kl.estimator, v1::KL_ESTIMATOR_K1);
  EXPECT_EQ(objective->aggregation, v1::LOSS_AGGREGATION_TOKEN_MEAN);
  EXPECT_FALSE(objective->needs_reference());
}

TEST(ComposeObjective, GroupsOfOneAreRefusedByName) {
  v1::AlgorithmSection section = Section();
  section.set_samples_per_prompt(1);
  EXPECT_THAT(std::string(ComposeObjective(section).status().message()),
              HasSubstr("algorithm.samples_per_prompt"));
  section = Section();
  section.set_min_valid_samples(1);
  EXPECT_THAT(std::string(ComposeObjective(section).status().message()),
              HasSubstr("algorithm.min_valid_samples"));
}

}  // namespace
}  // namespace rollcall::learner
