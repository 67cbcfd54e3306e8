#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "services/cli/train/local_services.h"
#include "services/cli/train/progress.h"
#include "services/cli/train/run_layout.h"

namespace rollcall::cli {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

v1::RunConfig Config(const std::string& name) {
  v1::RunConfig config;
  config.set_name(name);
  config.set_output_dir(testing::TempDir() + "train_test");
  config.set_stage(v1::STAGE_RL);
  config.mutable_generator()->set_replicas(2);
  config.mutable_algorithm()->set_kl_coefficient(0.01f);
  config.mutable_reward()->add_verifiers()->set_name("answer");
  return config;
}

std::vector<std::string> Names(const LocalServices& services) {
  std::vector<std::string> names;
  for (const ServiceSpec& spec : services.specs) names.push_back(spec.child.name);
  return names;
}

TEST(PlanLocalServices, StartsWhatTheStageNeeds) {
  const RunLayout layout{
      .root = "/r", .config_path = "/r/config.yaml", .logs = "/r/logs", .sockets = "/r/s"};
  v1::RunConfig config = Config("plan");
  LocalServices services = PlanLocalServices(config, layout, "/bin");
  EXPECT_THAT(Names(services),
              ElementsAre("generator-0", "generator-1", "reward", "reference", "learner"));
  EXPECT_THAT(services.config.generator().addresses(),
              ElementsAre("unix:/r/s/generator-0.sock", "unix:/r/s/generator-1.sock"));
  EXPECT_EQ(services.config.learner().listen(), "unix:/r/s/learner.sock");
  EXPECT_TRUE(services.config.generator().wait_for_weights());
  EXPECT_FALSE(services.specs.back().stateless);
  EXPECT_THAT(services.specs[1].child.argv,
              ElementsAre("/bin/rollcall-generator", "--config", "/r/config.yaml", "--listen",
                          "unix:/r/s/generator-1.sock"));

  config.mutable_algorithm()->set_kl_coefficient(0);
  config.mutable_reward()->set_address("verifier:7000");
  services = PlanLocalServices(config, layout, "/bin");
  EXPECT_THAT(Names(services), ElementsAre("generator-0", "generator-1", "learner"));
  EXPECT_EQ(services.config.reward().address(), "verifier:7000");

  v1::RunConfig taught = Config("taught");
  taught.mutable_algorithm()->set_preset(v1::ALGORITHM_PRESET_DISTILLATION);
  EXPECT_THAT(Names(PlanLocalServices(taught, layout, "/bin")),
              ElementsAre("generator-0", "generator-1", "reward", "reference", "learner"));
  taught.mutable_reward()->clear_verifiers();
  EXPECT_THAT(Names(PlanLocalServices(taught, layout, "/bin")),
              ElementsAre("generator-0", "generator-1", "reference", "learner"));

  config.set_stage(v1::STAGE_SFT);
  EXPECT_THAT(Names(PlanLocalServices(config, layout, "/bin")), ElementsAre("learner"));
  config.mutable_data()->add_evaluation()->set_path("held_out.jsonl");
  EXPECT_THAT(Names(PlanLocalServices(config, layout, "/bin")),
              ElementsAre("generator-0", "generator-1", "learner"));
}

TEST(PlanLocalServices, StagesOfPreferencesNeedAtMostAReference) {
  v1::RunConfig config = Config("preferences");
  config.mutable_data()->add_evaluation()->set_path("held_out.jsonl");
  for (const v1::Stage stage : {v1::STAGE_DPO, v1::STAGE_KTO}) {
    config.set_stage(stage);
    const LocalServices services = PlanLocalServices(config, {.sockets = "/s"}, "/bin");
    EXPECT_THAT(Names(services), ElementsAre("reference", "learner"));
    EXPECT_THAT(services.config.reference().addresses(), ElementsAre("unix:/s/reference.sock"));
    EXPECT_TRUE(services.specs[0].stateless);
  }
  for (const v1::Stage stage : {v1::STAGE_SIMPO, v1::STAGE_ORPO, v1::STAGE_REWARD_MODEL}) {
    config.set_stage(stage);
    EXPECT_THAT(Names(PlanLocalServices(config, {.sockets = "/s"}, "/bin")),
                ElementsAre("learner"));
  }
  config.set_stage(v1::STAGE_DPO);
  config.mutable_reference()->add_addresses("gpu-box:7403");
  EXPECT_THAT(Names(PlanLocalServices(config, {.sockets = "/s"}, "/bin")), ElementsAre("learner"));
}

TEST(PlanLocalServices, StartsAServerForEachRewardModelWithoutAnAddress) {
  v1::RunConfig config = Config("models");
  for (const char* name : {"quality", "safety"}) {
    v1::VerifierConfig* verifier = config.mutable_reward()->add_verifiers();
    verifier->set_name(name);
    verifier->mutable_reward_model()->set_path("/rm");
  }
  config.mutable_reward()->mutable_verifiers(2)->mutable_reward_model()->set_address("gpu-box:1");
  const LocalServices services =
      PlanLocalServices(config, {.config_path = "/c.yaml", .sockets = "/s"}, "/bin");
  EXPECT_THAT(Names(services), ElementsAre("generator-0", "generator-1", "reward-model-1", "reward",
                                           "reference", "learner"));
  EXPECT_THAT(services.specs[2].child.argv,
              ElementsAre("/bin/rollcall-reward-model", "--config", "/c.yaml", "--listen",
                          "unix:/s/reward-model-1.sock", "--verifier", "quality"));
  EXPECT_TRUE(services.specs[2].stateless);
  EXPECT_EQ(services.config.reward().verifiers(1).reward_model().address(),
            "unix:/s/reward-model-1.sock");
  EXPECT_EQ(services.config.reward().verifiers(2).reward_model().address(), "gpu-box:1");
}

TEST(PlanLocalServices, StartsEveryRankOfTheLearner) {
  v1::RunConfig config = Config("ranks");
  config.mutable_learner()->set_ranks(3);
  config.mutable_learner()->set_rendezvous("127.0.0.1:29500");
  config.mutable_learner()->set_metrics_listen("127.0.0.1:9400");
  LocalServices services =
      PlanLocalServices(config, {.config_path = "/c.yaml", .sockets = "/s"}, "/bin");
  EXPECT_THAT(Names(services), ElementsAre("generator-0", "generator-1", "reward", "reference",
                                           "learner", "learner-1", "learner-2"));
  EXPECT_FALSE(services.specs[4].rank);
  EXPECT_TRUE(services.specs[6].rank);
  EXPECT_FALSE(services.specs[6].stateless);
  EXPECT_THAT(services.specs[6].child.argv,
              ElementsAre("/bin/rollcall-learner", "--config", "/c.yaml", "--listen",
                          "unix:/s/learner-2.sock", "--metrics-listen", "127.0.0.1:9402", "--set",
                          "learner.rank=2"));
  // An evaluation trains nothing.
  config.set_stage(v1::STAGE_EVAL);
  EXPECT_THAT(Names(PlanLocalServices(config, {}, "/bin")), Not(Contains("learner-1")));
}

TEST(FreeLoopbackAddress, IsOneOfThisMachineAlone) {
  const auto first = FreeLoopbackAddress();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->rfind("127.0.0.1:", 0), 0u);
  EXPECT_NE(*first, "127.0.0.1:0");
}

TEST(PlanLocalServices, GivesEachReplicaItsOwnMetricsPort) {
  v1::RunConfig config = Config("ports");
  config.mutable_generator()->set_metrics_listen("127.0.0.1:9401");
  const LocalServices services = PlanLocalServices(config, {}, "/bin");
  EXPECT_THAT(services.specs[0].child.argv, Contains("127.0.0.1:9401"));
  EXPECT_THAT(services.specs[1].child.argv, Contains("127.0.0.1:9402"));
}

TEST(LockedRun, HoldsTheFolderAndReleasesIt) {
  const v1::RunConfig config = Config("locked");
  {
    auto first = LockedRun::Open(config);
    ASSERT_TRUE(first.ok()) << first.status();
    const auto second = LockedRun::Open(config);
    EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(second.status().message()), HasSubstr("locked"));
  }
  EXPECT_TRUE(LockedRun::Open(config).ok());
}

TEST(LockedRun, KeepsSocketsShortUnderALongFolder) {
  const v1::RunConfig config = Config(std::string(120, 'x'));
  std::string sockets;
  {
    auto run = LockedRun::Open(config);
    ASSERT_TRUE(run.ok()) << run.status();
    sockets = run->layout().sockets;
    EXPECT_LT(run->layout().Address("generator-63").size(), std::string("unix:").size() + 108);
    EXPECT_TRUE(std::filesystem::is_directory(sockets));
  }
  EXPECT_FALSE(std::filesystem::exists(sockets));
}

TEST(FormatLiveLine, ShowsWhatIsKnown) {
  ProgressState state{
      .step = 10, .total_steps = 40, .elapsed = absl::Seconds(20), .steps_done = 10};
  state.values = {{"reward/mean", 0.81}, {"kl", 0.0031}, {"length/mean", 26.42}, {"loss", 0.5}};
  EXPECT_EQ(FormatLiveLine(state), "step 10/40  reward 0.810  KL 0.0031  length 26.4  ETA 1:00");
  state.values = {{"loss", 0.5}};
  EXPECT_THAT(FormatLiveLine(state), HasSubstr("loss 0.5000"));
  state.values.clear();
  state.waiting_for = "generator-0";
  EXPECT_EQ(FormatLiveLine(state), "starting  0:20  waiting for generator-0");
}

TEST(FormatClock, RoundsToSeconds) {
  EXPECT_EQ(FormatClock(absl::Seconds(59.6)), "1:00");
  EXPECT_EQ(FormatClock(absl::Seconds(3723)), "1:02:03");
}

TEST(RenderCurve, RisesFromTheBottomToTheTop) {
  const std::vector<double> values = {0.0, 0.5, 1.0};
  EXPECT_EQ(RenderCurve(values, 10, 2), "    1.000 ┤ ▁█\n    0.000 ┤▁██\n");
  EXPECT_EQ(RenderCurve({}, 10, 2), "");
  const std::vector<double> flat(100, 2.0);
  EXPECT_THAT(RenderCurve(flat, 10, 1), HasSubstr("2.000 ┤▁▁▁▁▁▁▁▁▁▁\n"));
}

}  // namespace
}  // namespace rollcall::cli
