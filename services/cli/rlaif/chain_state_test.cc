#include "services/cli/rlaif/chain_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/config/run_config.h"
#include "common/config/yaml.h"
#include "common/wire/sha256.h"
#include "services/cli/rlaif/chain_inputs.h"
#include "services/cli/rlaif/chain_plan.h"

namespace rollcall::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ChainStateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(testing::TempDir(), "/chain_", getpid(), "_",
                           testing::UnitTest::GetInstance()->current_test_info()->name());
    ASSERT_TRUE(MakeDirectories(folder_ + "/1-answers").ok());
    ASSERT_TRUE(WriteFileAtomically(folder_ + "/1-answers/answers.jsonl", "{}\n").ok());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  FinishedStep Answers() const {
    return {.name = "answers",
            .folder = "1-answers",
            .inputs = {{"seed", "1"}},
            .files = {{"answers.jsonl", wire::ToHex(wire::Sha256Of("{}\n"))}},
            .summary = {{"answers", 3}, {"mean_tokens", 2.5}}};
  }

  std::string folder_;
};

TEST_F(ChainStateTest, RemembersWhatIsDone) {
  {
    auto state = ChainState::Load(folder_);
    ASSERT_TRUE(state.ok()) << state.status();
    const auto missing = state->Find("answers", {{"seed", "1"}});
    ASSERT_TRUE(missing.ok());
    EXPECT_EQ(*missing, nullptr);
    ASSERT_TRUE(state->Add(Answers()).ok());
  }
  const auto state = ChainState::Load(folder_);
  ASSERT_TRUE(state.ok()) << state.status();
  const auto found = state->Find("answers", {{"seed", "1"}});
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_NE(*found, nullptr);
  EXPECT_EQ((*found)->summary.dump(), R"({"answers":3,"mean_tokens":2.5})");
}

TEST_F(ChainStateTest, RefusesOtherInputsAndChangedFiles) {
  auto state = ChainState::Load(folder_);
  ASSERT_TRUE(state->Add(Answers()).ok());
  const auto other = state->Find("answers", {{"seed", "2"}});
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(other.status().message(), HasSubstr("1-answers: made with another seed: 1, now 2"));
  ASSERT_TRUE(WriteFileAtomically(folder_ + "/1-answers/answers.jsonl", "{} \n").ok());
  const auto changed = state->Find("answers", {{"seed", "1"}});
  EXPECT_EQ(changed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(changed.status().message(), HasSubstr("answers.jsonl: was changed"));
}

TEST_F(ChainStateTest, RefusesAFileThatIsNoState) {
  for (const char* text : {"", "{}", "{\"format\": 2, \"steps\": []}",
                           "{\"format\": 1, \"steps\": [{\"name\": \"answers\"}]}"}) {
    ASSERT_TRUE(WriteFileAtomically(folder_ + "/chain.json", text).ok());
    EXPECT_EQ(ChainState::Load(folder_).status().code(), absl::StatusCode::kDataLoss) << text;
  }
}

v1::RunConfig Config(const std::vector<std::string>& sets = {}) {
  std::vector<std::string> all = {"stage=rlaif",
                                  "model.path=/models/policy",
                                  "data.train=[{path: prompts.jsonl}]",
                                  "rlaif.constitution=rules.yaml",
                                  "rlaif.sft.steps=7",
                                  "output_dir=/runs",
                                  "name=chain"};
  all.insert(all.end(), sets.begin(), sets.end());
  const auto config = config::LoadRunConfig("", all);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(v1::RunConfig());
}

TEST(ChainPlan, StepsFollowWhatIsTrained) {
  const auto names = [](const v1::RunConfig& config) {
    std::vector<std::string> folders;
    for (const ChainStep step : StepsOf(config)) folders.push_back(StepFolder(step));
    return folders;
  };
  EXPECT_THAT(names(Config()), ElementsAre("1-answers", "2-revisions", "3-sft", "4-samples",
                                           "5-preferences", "6-dpo"));
  EXPECT_THAT(names(Config({"rlaif.train=reward_model"})),
              ElementsAre("1-answers", "2-revisions", "3-sft", "4-samples", "5-preferences",
                          "6-reward_model", "7-ppo"));
}

TEST(ChainPlan, EachStepHasItsModel) {
  const v1::RunConfig config = Config({"rlaif.judge_path=/models/judge"});
  EXPECT_EQ(ModelOf(ChainStep::kAnswers, config, "/run"), "/models/policy");
  EXPECT_EQ(ModelOf(ChainStep::kRevisions, config, "/run"), "/models/policy");
  EXPECT_EQ(ModelOf(ChainStep::kSft, config, "/run"), "/models/policy");
  EXPECT_EQ(ModelOf(ChainStep::kSamples, config, "/run"), "/run/3-sft/final");
  EXPECT_EQ(ModelOf(ChainStep::kPreferences, config, "/run"), "/models/judge");
  EXPECT_EQ(ModelOf(ChainStep::kPpo, config, "/run"), "/run/3-sft/final");
}

TEST(ChainPlan, TrainingStagesAreRunsOfTheirOwn) {
  const v1::RunConfig config = Config({"rlaif.train=reward_model", "rlaif.ppo.optimizer.lr=1e-3",
                                       "learner.reward_centering=0.01", "preference.beta=0.3"});
  const auto sft = TrainingConfig(ChainStep::kSft, config, "/runs/chain");
  ASSERT_TRUE(sft.ok()) << sft.status();
  EXPECT_EQ(config::RunFolder(*sft), "/runs/chain/3-sft");
  EXPECT_EQ(sft->stage(), v1::STAGE_SFT);
  EXPECT_EQ(sft->learner().steps(), 7u);
  EXPECT_EQ(sft->data().train(0).path(), "/runs/chain/2-revisions/sft.jsonl");

  const auto reward = TrainingConfig(ChainStep::kRewardModel, config, "/runs/chain");
  ASSERT_TRUE(reward.ok()) << reward.status();
  EXPECT_EQ(reward->model().path(), "/runs/chain/3-sft/final");
  EXPECT_EQ(reward->data().preference_column(), "preference");
  EXPECT_FLOAT_EQ(reward->learner().reward_centering(), 0.01F);
  EXPECT_EQ(sft->learner().reward_centering(), 0);
  EXPECT_EQ(reward->data().train(0).path(), "/runs/chain/5-preferences/pairs.jsonl");

  const auto ppo = TrainingConfig(ChainStep::kPpo, config, "/runs/chain");
  ASSERT_TRUE(ppo.ok()) << ppo.status();
  EXPECT_EQ(ppo->stage(), v1::STAGE_RL);
  EXPECT_EQ(ppo->algorithm().preset(), v1::ALGORITHM_PRESET_PPO);
  EXPECT_EQ(ppo->algorithm().advantage_baseline(), v1::ADVANTAGE_BASELINE_CRITIC);
  EXPECT_FLOAT_EQ(ppo->learner().optimizer().lr(), 1e-3F);
  EXPECT_EQ(ppo->reward().verifiers(0).reward_model().path(), "/runs/chain/6-reward_model/final");
  EXPECT_EQ(ppo->learner().critic().path(), "/runs/chain/6-reward_model/final");
  EXPECT_EQ(ppo->data().preference_column(), "");
  EXPECT_FALSE(ppo->preference().has_beta());
  EXPECT_FLOAT_EQ(TrainingConfig(ChainStep::kDpo, config, "/runs/chain")->preference().beta(),
                  0.3F);
  // What the children will read is what was planned.
  v1::RunConfig read;
  ASSERT_TRUE(config::ParseYaml(config::FormatYaml(*ppo), "ppo", {}, &read).ok());
  EXPECT_EQ(read.SerializeAsString(), ppo->SerializeAsString());
}

TEST(ChainPlan, ImpossibleTrainingIsFoundBeforeSampling) {
  const v1::RunConfig config = Config(
      {"rlaif.train=reward_model", "rlaif.ppo.prompts_per_step=5", "algorithm.mini_batches=2"});
  EXPECT_THAT(CheckTraining(config, "/runs/chain").message(),
              HasSubstr("step ppo: learner.prompts_per_step: must be a multiple"));
}

TEST(ChainInputs, AStepDependsOnWhatItReadsAndOnTheStepsBeforeIt) {
  auto state = ChainState::Load("/nowhere");
  ASSERT_TRUE(state.ok());
  const ChainContents contents{.prompts = "p", .constitution = "c", .held_out = ""};
  const auto same = [&](ChainStep step, const std::string& set) {
    return InputsOf(step, Config(), contents, *state) ==
           InputsOf(step, Config({set}), contents, *state);
  };
  EXPECT_FALSE(same(ChainStep::kAnswers, "sampling.temperature=0.5"));
  EXPECT_TRUE(same(ChainStep::kRevisions, "sampling.temperature=0.5"));
  EXPECT_FALSE(same(ChainStep::kRevisions, "rlaif.revisions=2"));
  EXPECT_FALSE(same(ChainStep::kRevisions, "rlaif.critic_path=/c"));
  EXPECT_TRUE(same(ChainStep::kPreferences, "rlaif.critic_path=/c"));
  EXPECT_FALSE(same(ChainStep::kPreferences, "rlaif.judge_path=/j"));
  EXPECT_FALSE(same(ChainStep::kSft, "rlaif.sft.optimizer.lr=1"));
  EXPECT_TRUE(same(ChainStep::kSft, "learner.threads=1"));
  EXPECT_FALSE(same(ChainStep::kDpo, "preference.beta=0.5"));
  for (const ChainStep step : {ChainStep::kAnswers, ChainStep::kSft, ChainStep::kPpo}) {
    EXPECT_FALSE(same(step, "seed=5"));
    EXPECT_TRUE(same(step, "generator.replicas=2"));
  }
}

}  // namespace
}  // namespace rollcall::cli
