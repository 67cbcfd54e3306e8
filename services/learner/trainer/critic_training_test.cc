// The models beside the policy in training: the critic of PPO, and a reference that is refreshed.
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/base/file.h"
#include "services/learner/trainer/checkpoint_store.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using testing::CopyParameters;
using testing::ExpectSameBits;
using testing::NewCritic;
using testing::NewDecoder;
using testing::NewPresetTrainer;
using testing::PresetRun;
using testing::RolloutBatch;
using testing::TinyModel;

v1::RunConfig PpoRun(const std::vector<std::string>& overrides = {}) {
  return PresetRun(v1::ALGORITHM_PRESET_PPO, overrides);
}

std::vector<at::Tensor> CriticParameters(const Trainer& trainer) {
  std::vector<at::Tensor> copies;
  for (const auto& parameter : trainer.critic()->decoder().parameters()) {
    copies.push_back(parameter.tensor.detach().clone());
  }
  return copies;
}

bool Same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!a[i].equal(b[i])) return false;
  }
  return a.size() == b.size();
}

TrainBatch OffPolicyBatch(uint64_t seed) {
  model::Decoder decoder = NewDecoder(TinyModel(), 1);
  return RolloutBatch(decoder, seed, 3, 0.3);
}

std::map<std::string, double> Step(Trainer& trainer, const TrainBatch& batch) {
  const auto report = trainer.TrainStep(batch);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? report->metrics : std::map<std::string, double>();
}

TEST(CriticFromBody, KeepsTheBodyAndStartsAtZero) {
  const model::Decoder body = NewDecoder(TinyModel(), 3);
  const auto critic = CriticFromBody(body, NewCritic(1).config());
  ASSERT_TRUE(critic.ok()) << critic.status();
  size_t head = 0;
  for (const auto& parameter : critic->parameters()) {
    if (parameter.name.rfind("score.", 0) == 0) {
      ++head;
      EXPECT_EQ(parameter.tensor.abs().max().item<float>(), 0.0f);
    } else {
      EXPECT_GT(parameter.tensor.abs().max().item<float>(), 0.0f) << parameter.name;
    }
  }
  EXPECT_GE(head, 1u);
  model::ModelConfig other = NewCritic(1).config();
  other.intermediate_size *= 2;
  EXPECT_EQ(CriticFromBody(body, other).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CriticTraining, AnObjectiveWithACriticNeedsOne) {
  SingleProcess group;
  EXPECT_EQ(Trainer::Create(PpoRun(), NewDecoder(TinyModel(), 1), &group).status().code(),
            absl::StatusCode::kInvalidArgument);
  const v1::RunConfig refreshed =
      PresetRun(v1::ALGORITHM_PRESET_GRPO, {"algorithm.reference_refresh_steps=2"});
  EXPECT_EQ(Trainer::Create(refreshed, NewDecoder(TinyModel(), 1), &group).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CriticTraining, WarmUpTrainsTheCriticAlone) {
  v1::RunConfig config = PpoRun();
  config.mutable_learner()->mutable_critic()->set_warmup_steps(1);
  const auto trainer = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  const std::vector<at::Tensor> policy = CopyParameters(*trainer);
  const std::vector<at::Tensor> critic = CriticParameters(*trainer);
  const auto first = Step(*trainer, OffPolicyBatch(3));
  EXPECT_TRUE(Same(policy, CopyParameters(*trainer)));
  EXPECT_FALSE(Same(critic, CriticParameters(*trainer)));
  EXPECT_EQ(first.at("train/updates"), 0);
  EXPECT_EQ(first.at("train/critic_updates"), 4);  // the preset's epochs
  Step(*trainer, OffPolicyBatch(4));
  EXPECT_FALSE(Same(policy, CopyParameters(*trainer)));
}

TEST(CriticTraining, ValuesApproachTheReturns) {
  v1::RunConfig config = PpoRun({"algorithm.kl_coefficient=0"});
  config.mutable_learner()->mutable_critic()->set_warmup_steps(1000);
  config.mutable_learner()->mutable_critic()->set_clip(0);
  config.mutable_learner()->mutable_critic()->mutable_optimizer()->set_lr(1e-2f);
  const auto trainer = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  const TrainBatch batch = OffPolicyBatch(3);
  const auto first = Step(*trainer, batch);
  std::map<std::string, double> last;
  for (int i = 0; i < 12; ++i) last = Step(*trainer, batch);
  EXPECT_LT(last.at("train/value_loss"), first.at("train/value_loss") / 4);
  EXPECT_GT(last.at("train/explained_variance"), 0.5);
  EXPECT_EQ(last.at("train/value_clip_fraction"), 0);
}

TEST(CriticTraining, ClippingHoldsValuesNearThoseOfTheRollout) {
  v1::RunConfig config = PpoRun();
  config.mutable_learner()->mutable_critic()->set_clip(1e-4f);
  const auto trainer = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  EXPECT_GT(Step(*trainer, OffPolicyBatch(3)).at("train/value_clip_fraction"), 0);
}

TEST(CriticTraining, MicroBatchesAndOrderChangeNothing) {
  std::vector<double> losses, value_losses;
  for (const uint32_t budget : {1u, 30u, 100000u}) {
    v1::RunConfig config = PpoRun({"algorithm.reward_whitening=true", "algorithm.reward_clip=0.7"});
    config.mutable_learner()->set_micro_batch_tokens(budget);
    TrainBatch batch = OffPolicyBatch(3);
    if (budget == 30) std::reverse(batch.sequences.begin(), batch.sequences.end());
    const auto metrics = Step(*NewPresetTrainer(config, NewDecoder(TinyModel(), 1)), batch);
    losses.push_back(metrics.at("train/loss"));
    value_losses.push_back(metrics.at("train/value_loss"));
  }
  for (size_t i = 1; i < losses.size(); ++i) {
    EXPECT_NEAR(losses[i], losses[0], 1e-6);
    EXPECT_NEAR(value_losses[i], value_losses[0], 1e-6);
  }
}

// What a resumed trainer computes next, bit for bit that of one that was never stopped.
void ExpectExactResume(const v1::RunConfig& config, bool has_critic) {
  const std::string root =
      ::testing::TempDir() + "/companions_" + std::to_string(getpid()) + (has_critic ? "c" : "r");
  std::filesystem::remove_all(root);
  CheckpointStore store(root, 2);
  const auto whole = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  for (uint64_t step = 1; step <= 3; ++step) Step(*whole, OffPolicyBatch(step));
  const auto folder = store.Save({}, *whole);
  ASSERT_TRUE(folder.ok()) << folder.status();
  Step(*whole, OffPolicyBatch(4));

  const auto resumed = NewPresetTrainer(config, NewDecoder(TinyModel(), 2));
  const auto loaded = store.LoadNewest(*resumed);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(loaded->has_value());
  EXPECT_EQ(resumed->step(), 3u);
  Step(*resumed, OffPolicyBatch(4));
  ExpectSameBits(CopyParameters(*whole), CopyParameters(*resumed));
  if (has_critic) ExpectSameBits(CriticParameters(*whole), CriticParameters(*resumed));

  // A damaged companion makes the checkpoint a damaged one.
  const std::string file =
      *folder + (has_critic ? "/critic.safetensors" : "/reference.safetensors");
  std::string bytes = ReadFile(file).value();
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  ASSERT_TRUE(WriteFileAtomically(file, bytes).ok());
  EXPECT_EQ(store.LoadNewest(*resumed).status().code(), absl::StatusCode::kDataLoss);
  std::filesystem::remove_all(root);
}

TEST(CriticTraining, ResumesExactly) { ExpectExactResume(PpoRun(), true); }

TEST(ReferenceRefresh, ResumesExactly) {
  ExpectExactResume(PresetRun(v1::ALGORITHM_PRESET_GRPO, {"algorithm.reference_refresh_steps=2",
                                                          "algorithm.kl_coefficient=1"}),
                    false);
}

TEST(ReferenceRefresh, TheReferenceFollowsThePolicyEveryFewSteps) {
  const v1::RunConfig config =
      PresetRun(v1::ALGORITHM_PRESET_GRPO,
                {"algorithm.reference_refresh_steps=2", "algorithm.kl_coefficient=0.1"});
  const auto trainer = NewPresetTrainer(config, NewDecoder(TinyModel(), 1));
  std::vector<double> kl;
  for (uint64_t step = 1; step <= 5; ++step) {
    TrainBatch batch = OffPolicyBatch(step);
    for (TrainSequence& sequence : batch.sequences) sequence.reference_logprobs.clear();
    kl.push_back(Step(*trainer, batch).at("train/kl"));
  }
  // The reference is the policy itself, to the bit, at the start and after each refresh.
  EXPECT_EQ(kl[0], 0);
  EXPECT_GT(kl[1], 0);
  EXPECT_EQ(kl[2], 0);
  EXPECT_GT(kl[3], 0);
  EXPECT_EQ(kl[4], 0);
}

}  // namespace
}  // namespace rollcall::learner
