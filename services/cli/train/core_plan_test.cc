#include "services/cli/train/core_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "common/base/philox.h"

namespace rollcall::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

MachineLimits Machine(int cores) {
  MachineLimits limits;
  limits.cores.resize(static_cast<size_t>(cores));
  std::iota(limits.cores.begin(), limits.cores.end(), 0);
  return limits;
}

v1::RunConfig Config(uint32_t max_staleness, uint32_t replicas = 1) {
  v1::RunConfig config;
  config.set_stage(v1::STAGE_RL);
  config.mutable_learner()->set_max_staleness(max_staleness);
  config.mutable_generator()->set_replicas(replicas);
  return config;
}

std::vector<uint32_t> Threads(const std::vector<CoreShare>& plan) {
  std::vector<uint32_t> threads;
  for (const CoreShare& share : plan) threads.push_back(share.threads);
  return threads;
}

TEST(CorePlanTest, TheLearnerTakesTurnsWithTheOthers) {
  const auto plan =
      PlanCores(Config(0), {"generator-0", "reward", "reference", "learner"}, Machine(8));
  EXPECT_THAT(Threads(plan), ElementsAre(6, 2, 8));
  EXPECT_THAT(plan[0].cores, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(plan[1].cores, ElementsAre(6, 7));
  EXPECT_EQ(plan[2].service, "learner");
  EXPECT_EQ(plan[2].cores.size(), 8u);
  EXPECT_EQ(Describe({plan[1]}), "reference 2 threads on 6,7");
}

TEST(CorePlanTest, TrainingWhileSamplingDividesTheCores) {
  const auto plan = PlanCores(Config(1, 2), {"generator-0", "generator-1", "learner"}, Machine(8));
  EXPECT_THAT(Threads(plan), ElementsAre(2, 2, 4));
  EXPECT_THAT(plan[1].cores, ElementsAre(2, 3));
  EXPECT_THAT(plan[2].cores, ElementsAre(4, 5, 6, 7));
}

TEST(CorePlanTest, TheReferenceOfRecordedPreferencesScoresWhileTheLearnerTrains) {
  for (const v1::Stage stage : {v1::STAGE_DPO, v1::STAGE_KTO}) {
    v1::RunConfig config;
    config.set_stage(stage);
    const auto plan = PlanCores(config, {"reference", "learner"}, Machine(8));
    EXPECT_THAT(Threads(plan), ElementsAre(2, 6));
    EXPECT_THAT(plan[0].cores, ElementsAre(0, 1));
    EXPECT_THAT(Threads(PlanCores(config, {"reference", "learner"}, Machine(2))),
                ElementsAre(2, 2));
  }
  v1::RunConfig config;
  config.set_stage(v1::STAGE_SIMPO);
  EXPECT_THAT(Threads(PlanCores(config, {"learner"}, Machine(8))), ElementsAre(8));
}

TEST(CorePlanTest, RanksShareTheLearnersPart) {
  v1::RunConfig config = Config(0);
  config.mutable_learner()->set_ranks(2);
  const auto plan = PlanCores(config, {"generator-0", "learner", "learner-1"}, Machine(8));
  EXPECT_THAT(Threads(plan), ElementsAre(8, 4, 4));
  EXPECT_THAT(plan[2].cores, ElementsAre(4, 5, 6, 7));
  ServiceSpec rank;
  rank.child.name = "learner-1";
  std::vector<ServiceSpec> specs = {rank};
  ApplyCorePlan(plan, &specs);
  EXPECT_THAT(specs[0].child.argv, ElementsAre("--set", "learner.threads=4"));
  config.mutable_learner()->set_max_staleness(1);
  EXPECT_THAT(Threads(PlanCores(config, {"generator-0", "learner", "learner-1"}, Machine(8))),
              ElementsAre(4, 2, 2));
}

TEST(CorePlanTest, WhatTheConfigurationSaysStands) {
  v1::RunConfig config = Config(1);
  config.mutable_generator()->set_threads(5);
  EXPECT_THAT(Threads(PlanCores(config, {"generator-0", "learner"}, Machine(8))),
              ElementsAre(5, 3));
  config.mutable_generator()->set_threads(100);
  EXPECT_THAT(Threads(PlanCores(config, {"generator-0", "learner"}, Machine(8))),
              ElementsAre(8, 1));
}

TEST(CorePlanTest, SharedCoresAreNotBound) {
  MachineLimits limits = Machine(64);
  limits.cpu_quota = 8;
  const auto plan = PlanCores(Config(1), {"generator-0", "learner"}, limits);
  EXPECT_THAT(Threads(plan), ElementsAre(4, 4));
  EXPECT_THAT(plan[0].cores, IsEmpty());
}

TEST(CorePlanTest, WhoWorksAtOnceSharesNoCoreWhereThereAreEnough) {
  PhiloxStream random(7, 1);
  for (int i = 0; i < 2000; ++i) {
    const int cores = 1 + static_cast<int>(random.Below(40));
    const auto replicas = static_cast<uint32_t>(1 + random.Below(6));
    const v1::RunConfig config = Config(static_cast<uint32_t>(random.Below(2)), replicas);
    std::vector<std::string> services;
    for (uint32_t r = 0; r < replicas; ++r) services.push_back("generator-" + std::to_string(r));
    if (random.Below(2) == 0) services.push_back("reference");
    services.push_back("learner");
    const bool overlaps = config.learner().max_staleness() > 0;
    std::multiset<int> at_once;
    for (const CoreShare& share : PlanCores(config, services, Machine(cores))) {
      EXPECT_GE(share.threads, 1u);
      EXPECT_EQ(share.cores.size(), share.threads);
      EXPECT_EQ(std::set<int>(share.cores.begin(), share.cores.end()).size(), share.threads);
      if (overlaps || share.service != "learner") {
        at_once.insert(share.cores.begin(), share.cores.end());
      } else {
        EXPECT_EQ(share.threads, static_cast<uint32_t>(cores));
      }
    }
    const size_t sharing = services.size() - (overlaps ? 0 : 1);
    // Every core is used, and none twice unless there are more services than cores.
    EXPECT_EQ(at_once.size(), std::max<size_t>(sharing, static_cast<size_t>(cores)));
    EXPECT_EQ(std::set<int>(at_once.begin(), at_once.end()).size(), static_cast<size_t>(cores));
  }
}

TEST(CorePlanTest, RewardModelsCompute) {
  v1::RunConfig config = Config(0);
  config.mutable_reward()->add_verifiers();
  config.mutable_reward()->add_verifiers()->mutable_reward_model()->set_threads(3);
  std::vector<ServiceSpec> specs(2);
  specs[0].child.name = "generator-0";
  specs[1].child.name = "reward-model-1";
  ApplyCorePlan(PlanCores(config, {"generator-0", "reward-model-1"}, Machine(8)), &specs);
  EXPECT_THAT(specs[0].child.cores, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(specs[1].child.cores, ElementsAre(5, 6, 7));
  EXPECT_THAT(specs[1].child.argv,
              ElementsAre("--set", "reward.verifiers[1].reward_model.threads=3"));
}

TEST(CorePlanTest, EachServiceIsToldItsShare) {
  std::vector<ServiceSpec> specs(3);
  specs[0].child.name = "generator-0";
  specs[1].child.name = "reward";
  specs[2].child.name = "learner";
  ApplyCorePlan(PlanCores(Config(1), {"generator-0", "reward", "learner"}, Machine(4)), &specs);
  EXPECT_THAT(specs[0].child.argv, ElementsAre("--set", "generator.threads=2"));
  EXPECT_THAT(specs[0].child.cores, ElementsAre(0, 1));
  EXPECT_THAT(specs[1].child.argv, IsEmpty());
  EXPECT_THAT(specs[2].child.argv, Contains("learner.threads=2"));
}

}  // namespace
}  // namespace rollcall::cli
