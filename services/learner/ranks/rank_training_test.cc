// Several ranks train as one does: real processes over Gloo, five steps of every kind of objective.
#include <ATen/core/Tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/scratch_folder.h"
#include "services/learner/ranks/rank_processes.h"
#include "services/learner/trainer/checkpoint_store.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using ::testing::HasSubstr;
using testing::RankResult;
using testing::RunRanks;

// What a run leaves: losses of its steps, then every parameter of policy and critic.
using Numbers = std::vector<double>;

std::string Encode(const Numbers& numbers) {
  return "ok" + std::string(reinterpret_cast<const char*>(numbers.data()),
                            numbers.size() * sizeof(double));
}

Numbers Decode(const std::string& bytes) {
  if (bytes.rfind("ok", 0) != 0) {
    ADD_FAILURE() << bytes.substr(0, 500);
    return {};
  }
  Numbers numbers((bytes.size() - 2) / sizeof(double));
  std::memcpy(numbers.data(), bytes.data() + 2, bytes.size() - 2);
  return numbers;
}

void Append(const model::Decoder& decoder, Numbers& numbers) {
  for (const auto& parameter : decoder.trainable_parameters()) {
    const at::Tensor values = parameter.tensor.detach().to(at::kDouble).contiguous();
    const double* data = values.const_data_ptr<double>();
    numbers.insert(numbers.end(), data, data + values.numel());
  }
}

// One way of training: the configuration, the initial model and the batch of each step.
struct Recipe {
  v1::RunConfig config;
  std::function<TrainBatch(uint64_t step)> batch;
  at::ScalarType dtype = at::kFloat;
  bool adapter = false;
};

std::unique_ptr<Trainer> MakeTrainer(const Recipe& recipe, ProcessGroup& group) {
  TrainerCompanions companions;
  if (recipe.config.algorithm().advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC) {
    companions.critic = testing::NewCritic(7);
  }
  if (recipe.config.algorithm().reference_refresh_steps() > 0) {
    companions.reference = testing::NewDecoder(testing::TinyModel(), 1);
  }
  model::ModelConfig model = testing::TinyModel();
  if (recipe.config.stage() == v1::STAGE_REWARD_MODEL) model.head = model::Head::kSequenceScore;
  model::Decoder decoder = testing::NewDecoder(model, 1, recipe.dtype);
  if (recipe.adapter) {
    EXPECT_TRUE(decoder.AddAdapter({.r = 4, .alpha = 8, .base_model = "org/base"}).ok());
    decoder.InitializeAdapter(5);
  }
  auto trainer = Trainer::Create(recipe.config, std::move(decoder), &group, Clock::Real(),
                                 std::move(companions));
  if (!trainer.ok()) {
    ADD_FAILURE() << trainer.status();
    return nullptr;
  }
  return *std::move(trainer);
}

std::string TrainSteps(const Recipe& recipe, Trainer& trainer, uint64_t first, uint64_t last) {
  Numbers numbers;
  for (uint64_t step = first; step <= last; ++step) {
    const auto report = trainer.TrainStep(recipe.batch(step));
    if (!report.ok()) return report.status().ToString();
    for (const char* name : {"train/loss", "train/grad_norm", "train/tokens", "train/loss_tokens",
                             "train/entropy", "train/ratio_max", "train/kl", "train/value_loss",
                             "train/value_clip_fraction", "train/accuracy", "train/reward_mean"}) {
      const auto found = report->metrics.find(name);
      numbers.push_back(found == report->metrics.end() ? -1 : found->second);
    }
  }
  Append(trainer.decoder(), numbers);
  if (trainer.critic() != nullptr) Append(trainer.critic()->decoder(), numbers);
  return Encode(numbers);
}

std::function<std::string(ProcessGroup&)> FiveSteps(const Recipe& recipe) {
  return [recipe](ProcessGroup& group) {
    const auto trainer = MakeTrainer(recipe, group);
    return trainer == nullptr ? std::string("no trainer") : TrainSteps(recipe, *trainer, 1, 5);
  };
}

void ExpectNear(const Numbers& actual, const Numbers& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    worst =
        std::max(worst, std::abs(actual[i] - expected[i]) / std::max(1.0, std::abs(expected[i])));
  }
  EXPECT_LE(worst, tolerance);
  ::testing::Test::RecordProperty("largest_difference", absl::StrCat(worst));
}

// Two and three ranks against one, and against themselves.
void ExpectRanksTrainAsOne(const Recipe& recipe, double tolerance = 1e-6) {
  const Numbers one = Decode(RunRanks(1, FiveSteps(recipe))[0].returned);
  ASSERT_FALSE(one.empty());
  for (const int ranks : {2, 3}) {
    SCOPED_TRACE(absl::StrCat(ranks, " ranks"));
    const std::vector<RankResult> first = RunRanks(ranks, FiveSteps(recipe));
    ExpectNear(Decode(first[0].returned), one, tolerance);
    for (const RankResult& rank : first) EXPECT_TRUE(rank.returned == first[0].returned);
    if (ranks > 2) continue;
    const std::vector<RankResult> again = RunRanks(ranks, FiveSteps(recipe));
    EXPECT_TRUE(again[0].returned == first[0].returned) << "two runs differ";
  }
}

Recipe PolicyRecipe(v1::AlgorithmPreset preset, const std::vector<std::string>& overrides = {}) {
  Recipe recipe{.config = testing::PresetRun(preset, overrides), .batch = {}};
  recipe.config.mutable_learner()->mutable_optimizer()->set_lr(1e-4f);
  recipe.config.mutable_learner()->mutable_critic()->mutable_optimizer()->set_lr(1e-4f);
  recipe.batch = [](uint64_t step) {
    model::Decoder decoder = testing::NewDecoder(testing::TinyModel(), 1);
    return testing::RolloutBatch(decoder, step, 6, 0.05);
  };
  return recipe;
}

TEST(RankTraining, Grpo) { ExpectRanksTrainAsOne(PolicyRecipe(v1::ALGORITHM_PRESET_GRPO)); }
TEST(RankTraining, Dapo) { ExpectRanksTrainAsOne(PolicyRecipe(v1::ALGORITHM_PRESET_DAPO)); }
TEST(RankTraining, ReinforcePlusPlus) {
  ExpectRanksTrainAsOne(PolicyRecipe(v1::ALGORITHM_PRESET_REINFORCE_PP));
}
TEST(RankTraining, OnlineDpo) {
  ExpectRanksTrainAsOne(PolicyRecipe(v1::ALGORITHM_PRESET_ONLINE_DPO));
}
TEST(RankTraining, PpoWithItsCritic) {
  ExpectRanksTrainAsOne(PolicyRecipe(v1::ALGORITHM_PRESET_PPO,
                                     {"algorithm.mini_batches=2", "algorithm.epochs_per_batch=2"}));
}
TEST(RankTraining, OwnReferenceAndDecoupledPolicy) {
  ExpectRanksTrainAsOne(
      PolicyRecipe(v1::ALGORITHM_PRESET_GRPO,
                   {"algorithm.kl_coefficient=0.05", "algorithm.reference_refresh_steps=2",
                    "algorithm.behavior_correction=token_truncate"}));
}

// Masters and moments of a bfloat16 model are sharded; weights that differ are one rounding apart.
TEST(RankTraining, Bfloat16WithMasters) {
  Recipe recipe = PolicyRecipe(v1::ALGORITHM_PRESET_GRPO);
  recipe.dtype = at::kBFloat16;
  ExpectRanksTrainAsOne(recipe, 5e-3);
}

Recipe SupervisedRecipe(size_t sequences) {
  Recipe recipe{.config = testing::TinyRun(v1::STAGE_SFT), .batch = {}};
  recipe.config.mutable_learner()->mutable_optimizer()->set_lr(1e-4f);
  recipe.config.mutable_learner()->set_micro_batch_tokens(40);
  recipe.batch = [sequences](uint64_t step) { return testing::CopyTask(step, sequences); };
  return recipe;
}

TEST(RankTraining, Supervised) { ExpectRanksTrainAsOne(SupervisedRecipe(16)); }
// Two of three ranks have nothing to compute, but their part of the optimizer.
TEST(RankTraining, OneSequence) { ExpectRanksTrainAsOne(SupervisedRecipe(1)); }

// Only the adapter is trained, sharded and given to the others.
TEST(RankTraining, Adapter) {
  Recipe recipe = SupervisedRecipe(16);
  recipe.adapter = true;
  ExpectRanksTrainAsOne(recipe);
}

TEST(RankTraining, RewardModel) {
  Recipe recipe = SupervisedRecipe(10);
  recipe.config.set_stage(v1::STAGE_REWARD_MODEL);
  ExpectRanksTrainAsOne(recipe);
}

// The largest gap of any rank ends the step on all of them.
TEST(RankTraining, AGapOfOneRankStopsAll) {
  Recipe recipe = PolicyRecipe(v1::ALGORITHM_PRESET_GRPO);
  recipe.batch = [](uint64_t step) {
    model::Decoder decoder = testing::NewDecoder(testing::TinyModel(), 1);
    TrainBatch batch = testing::RolloutBatch(decoder, step, 6, 0);
    batch.sequences.back().behavior_logprobs.back() -= 0.5f;
    return batch;
  };
  for (const RankResult& rank : RunRanks(3, FiveSteps(recipe))) {
    EXPECT_THAT(rank.returned, HasSubstr("group 15 sample 3"));
  }
}

TEST(RankCheckpoint, IsOneWhateverTheNumberOfRanks) {
  const checkpoint::ScratchFolder scratch;
  const Recipe recipe = PolicyRecipe(v1::ALGORITHM_PRESET_PPO, {"algorithm.mini_batches=2"});
  const auto save = [&](const std::string& name) {
    return [&, name](ProcessGroup& group) -> std::string {
      const auto trainer = MakeTrainer(recipe, group);
      const std::string trained = TrainSteps(recipe, *trainer, 1, 3);
      if (group.rank() != 0) return trainer->HandOverState().ToString();
      CheckpointStore store(scratch / name, 1);
      const auto saved = store.Save(v1::LearnerCheckpoint(), *trainer);
      return saved.ok() ? trained : saved.status().ToString();
    };
  };
  const auto resume = [&](const std::string& name) {
    return [&, name](ProcessGroup& group) -> std::string {
      Recipe other = recipe;
      const auto trainer = MakeTrainer(other, group);
      std::string from;
      if (group.rank() == 0) {
        const auto loaded = CheckpointStore(scratch / name, 1).LoadNewest(*trainer);
        if (!loaded.ok()) return loaded.status().ToString();
        from = (*loaded)->folder;
      }
      if (auto shared = trainer->ShareState(from); !shared.ok()) return shared.ToString();
      if (trainer->step() != 3) return absl::StrCat("at step ", trainer->step());
      return TrainSteps(recipe, *trainer, 4, 5);
    };
  };
  Decode(RunRanks(1, save("one"))[0].returned);
  const auto two = RunRanks(2, save("two"));
  Decode(two[0].returned);
  EXPECT_EQ(two[1].returned, "OK");
  const auto names = [&](const std::string& name) {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch / name)) {
      found.push_back(entry.path().string().substr((scratch / name).size()));
    }
    std::sort(found.begin(), found.end());
    return found;
  };
  EXPECT_EQ(names("one"), names("two"));

  // Undisturbed, with the ranks that saved: bit for bit.
  const auto whole = [&](ProcessGroup& group) -> std::string {
    const auto trainer = MakeTrainer(recipe, group);
    if (const std::string early = TrainSteps(recipe, *trainer, 1, 3); early.rfind("ok", 0) != 0) {
      return early;
    }
    return TrainSteps(recipe, *trainer, 4, 5);
  };
  const std::string undisturbed = RunRanks(2, whole)[0].returned;
  EXPECT_TRUE(RunRanks(2, resume("two"))[0].returned == undisturbed);
  // With another number of ranks: as near as ranks are.
  const Numbers expected = Decode(undisturbed);
  for (const int ranks : {1, 3}) {
    SCOPED_TRACE(ranks);
    ExpectNear(Decode(RunRanks(ranks, resume("two"))[0].returned), expected, 1e-6);
  }
  ExpectNear(Decode(RunRanks(2, resume("one"))[0].returned), expected, 1e-6);
}

}  // namespace
}  // namespace rollcall::learner
