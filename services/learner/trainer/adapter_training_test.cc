// Training a low-rank adapter in place of the weights: every stage and preset, the optimizer's state,
// checkpoints, and what is published and exported.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/checkpoint/scratch_folder.h"
#include "common/config/algorithm_presets.h"
#include "common/model/adapter_folder.h"
#include "common/model/identity.h"
#include "services/learner/publish/prepared_version.h"
#include "services/learner/trainer/checkpoint_store.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using checkpoint::ScratchFolder;
using testing::CopyTask;
using testing::ExpectSameBits;
using ::testing::HasSubstr;
using testing::NewDecoder;
using testing::NewTrainer;
using testing::TinyModel;
using testing::TinyRun;

model::Decoder Adapted(uint64_t seed = 1, at::ScalarType dtype = at::kFloat, int64_t r = 4) {
  model::Decoder decoder = NewDecoder(TinyModel(), seed, dtype);
  EXPECT_TRUE(decoder.AddAdapter({.r = r, .alpha = 8, .base_model = "org/base"}).ok());
  decoder.InitializeAdapter(5);
  return decoder;
}

v1::RunConfig TrainingRun(v1::Stage stage = v1::STAGE_SFT) {
  v1::RunConfig config = TinyRun(stage);
  config.mutable_learner()->mutable_optimizer()->set_lr(2e-2F);
  return config;
}

std::vector<at::Tensor> Copies(const std::vector<tensor::NamedTensor>& tensors) {
  std::vector<at::Tensor> copies;
  for (const auto& [name, tensor] : tensors) copies.push_back(tensor.detach().clone());
  return copies;
}
std::vector<at::Tensor> AdapterOf(const Trainer& trainer) {
  return Copies(trainer.decoder().adapter_parameters());
}

void Train(Trainer& trainer, uint64_t last_step) {
  while (trainer.step() < last_step) {
    const auto report = trainer.TrainStep(CopyTask(trainer.step() + 1, 8));
    ASSERT_TRUE(report.ok()) << report.status();
  }
}

class AdapterTrainingTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(AdapterTrainingTest, LearnsWhileTheBaseStaysAsItIs) {
  const auto trainer = NewTrainer(TrainingRun(), Adapted(1, GetParam(), 8));
  const std::vector<at::Tensor> base = Copies(trainer->decoder().parameters());
  double first = 0, last = 0;
  for (uint64_t step = 1; step <= 60; ++step) {
    const auto report = trainer->TrainStep(CopyTask(step, 16));
    ASSERT_TRUE(report.ok()) << report.status();
    last = report->metrics.at("train/loss");
    if (step == 1) first = last;
  }
  // Embedding and head stay random, so that there is less to learn than with all weights.
  EXPECT_LT(last, 0.9 * first);
  ExpectSameBits(Copies(trainer->decoder().parameters()), base);
  // Two moments of each float32 parameter of the adapter, and the count of updates.
  const auto state = trainer->optimizer().State();
  const auto& parameters = trainer->decoder().adapter_parameters();
  ASSERT_EQ(state.size(), 2 * parameters.size() + 1);
  EXPECT_EQ(state[0].name,
            "exp_avg.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
}

TEST_P(AdapterTrainingTest, AResumedRunContinuesBitForBit) {
  const ScratchFolder scratch;
  CheckpointStore store(scratch / "checkpoints", 3);
  const auto straight = NewTrainer(TrainingRun(), Adapted(1, GetParam()));
  Train(*straight, 3);
  const auto folder = store.Save({}, *straight);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_FALSE(std::filesystem::exists(*folder + "/model"));
  Train(*straight, 6);

  const auto resumed = NewTrainer(TrainingRun(), Adapted(1, GetParam()));
  const auto loaded = store.LoadNewest(*resumed);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(loaded->has_value());
  EXPECT_EQ(resumed->step(), 3u);
  Train(*resumed, 6);
  ExpectSameBits(AdapterOf(*resumed), AdapterOf(*straight));
  ExpectSameBits(testing::FirstMoments(*resumed), testing::FirstMoments(*straight));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, AdapterTrainingTest, ::testing::Values(at::kFloat, at::kBFloat16));

// Each preset takes a step on rollouts of the adapted policy, without a gap, and moves nothing but
// the adapter (and a critic).
TEST(AdapterPresets, EveryPresetTrainsTheAdapter) {
  for (const v1::AlgorithmPreset preset : testing::AllPresets()) {
    SCOPED_TRACE(config::PresetName(preset));
    const auto trainer = testing::NewPresetTrainer(testing::PresetRun(preset), Adapted());
    model::Decoder policy = Adapted();
    TrainBatch batch = testing::RolloutBatch(policy, 3, 4, /*drift=*/0);
    const std::vector<at::Tensor> base = Copies(trainer->decoder().parameters());
    const std::vector<at::Tensor> before = AdapterOf(*trainer);
    const auto report = trainer->TrainStep(std::move(batch));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->gap.value_or(0), 0.0);
    ExpectSameBits(Copies(trainer->decoder().parameters()), base);
    // B starts at zero, so that at first only B has a gradient.
    EXPECT_GT(model::testing::MaxDifference(AdapterOf(*trainer)[1], before[1]), 0.0);
  }
}

TEST(AdapterPresets, ARefreshedReferenceTakesOverTheAdapter) {
  const v1::RunConfig config =
      testing::PresetRun(v1::ALGORITHM_PRESET_GRPO,
                         {"algorithm.kl_coefficient=0.1", "algorithm.reference_refresh_steps=2"});
  const ScratchFolder scratch;
  CheckpointStore store(scratch / "checkpoints", 3);
  model::Decoder policy = Adapted();
  const TrainBatch batch = testing::RolloutBatch(policy, 3, 4, /*drift=*/0.05);
  const auto step = [&](Trainer& trainer) {
    const auto report = trainer.TrainStep(batch);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? report->metrics.at("train/kl") : -1;
  };
  const auto trainer = testing::NewPresetTrainer(config, Adapted());
  EXPECT_EQ(step(*trainer), 0.0) << "the base, which the adapter starts as";
  EXPECT_GT(step(*trainer), 0.0);
  ASSERT_TRUE(store.Save({}, *trainer).ok());
  EXPECT_EQ(step(*trainer), 0.0) << "refreshed after step 2";
  const double last = step(*trainer);
  const auto resumed = testing::NewPresetTrainer(config, Adapted());
  ASSERT_TRUE(store.LoadNewest(*resumed).ok());
  step(*resumed);
  EXPECT_EQ(step(*resumed), last);
  ExpectSameBits(AdapterOf(*resumed), AdapterOf(*trainer));
}

TEST(AdapterRewardModel, ItsHeadIsTrainedWholeAndSavedBesideIt) {
  model::ModelConfig config = TinyModel();
  config.head = model::Head::kSequenceScore;
  config.pad_token_id = 0;
  const auto make = [&] {
    model::Decoder decoder = NewDecoder(config, 1);
    EXPECT_TRUE(decoder.AddAdapter({.r = 2, .alpha = 4, .target_modules = {"v_proj"}}).ok());
    decoder.InitializeAdapter(5);
    return decoder;
  };
  const ScratchFolder scratch;
  CheckpointStore store(scratch / "checkpoints", 3);
  const auto trainer = NewTrainer(TrainingRun(v1::STAGE_REWARD_MODEL), make());
  const auto step = [](Trainer& of) { return of.TrainStep(CopyTask(of.step() + 1, 8)); };
  ASSERT_TRUE(step(*trainer).ok()) << step(*trainer).status();
  ASSERT_TRUE(store.Save({}, *trainer).ok());
  ASSERT_TRUE(step(*trainer).ok());
  const auto resumed = NewTrainer(TrainingRun(v1::STAGE_REWARD_MODEL), make());
  const auto loaded = store.LoadNewest(*resumed);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(step(*resumed).ok());
  ExpectSameBits(AdapterOf(*resumed), AdapterOf(*trainer));
  const model::Decoder start = make();
  EXPECT_EQ(trainer->decoder().adapter_parameters().back().name, "base_model.model.score.weight");
  EXPECT_GT(model::testing::MaxDifference(AdapterOf(*trainer).back(),
                                          start.adapter_parameters().back().tensor),
            0.0);
}

class AdapterCheckpointTest : public ::testing::Test {
 protected:
  AdapterCheckpointTest() : store_(scratch_ / "checkpoints", 3) {
    const auto trainer = NewTrainer(TrainingRun(), Adapted());
    Train(*trainer, 1);
    EXPECT_TRUE(store_.Save({}, *trainer).ok());
  }
  absl::Status Load(model::Decoder decoder) {
    const auto trainer = NewTrainer(TrainingRun(), std::move(decoder));
    return store_.LoadNewest(*trainer).status();
  }
  ScratchFolder scratch_;
  CheckpointStore store_;
};

TEST_F(AdapterCheckpointTest, OneOfSomethingElseIsRefusedNotPassedOver) {
  EXPECT_TRUE(Load(Adapted()).ok());
  const std::pair<absl::Status, const char*> refused[] = {
      {Load(Adapted(2)), "was trained on other base weights"},
      {Load(NewDecoder(TinyModel(), 1)), "holds an adapter, and model.lora asks for none"},
      {Load(Adapted(1, at::kBFloat16)), "was trained on other base weights"},
  };
  for (const auto& [status, said] : refused) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(said));
  }
  // Another rank: the optimizer's state does not fit, either.
  EXPECT_FALSE(Load(Adapted(1, at::kFloat, 5)).ok());
}

TEST_F(AdapterCheckpointTest, WholeWeightsAreNoAdapter) {
  const auto whole = NewTrainer(TrainingRun(), NewDecoder(TinyModel(), 1));
  Train(*whole, 2);
  ASSERT_TRUE(store_.Save({}, *whole).ok());
  EXPECT_THAT(Load(Adapted()).message(), HasSubstr("holds whole weights, and model.lora asks"));
}

TEST(AdapterExport, PublishesAndWritesTheAdapter) {
  const auto trainer = NewTrainer(TrainingRun(), Adapted());
  Train(*trainer, 2);
  const model::Decoder& decoder = trainer->decoder();
  const WeightSnapshotPtr snapshot = *trainer->Snapshot();
  ASSERT_EQ(snapshot->tensors.size(), decoder.adapter_parameters().size());
  const PreparedVersionPtr prepared = PrepareVersion({.run_id = "run"}, snapshot);
  EXPECT_EQ(prepared->version.manifest_hash(), *model::PolicyManifestHash(decoder));
  EXPECT_EQ(prepared->manifest.tensors(0).name(), decoder.adapter_parameters()[0].name);

  const ScratchFolder scratch;
  ASSERT_TRUE(trainer->ExportModel(scratch / "adapter").ok());
  model::Decoder again = NewDecoder(TinyModel(), 1);
  ASSERT_TRUE(
      model::LoadAdapter(scratch / "adapter", snapshot->adapter->base_manifest_hash, again).ok());
  EXPECT_EQ(*model::PolicyManifestHash(again), prepared->version.manifest_hash());
  EXPECT_EQ(again.lora()->base_model, "org/base");

  ASSERT_TRUE(trainer->ExportMerged(scratch / "merged").ok());
  model::Decoder merged = NewDecoder(TinyModel(), 9);
  const auto folder = checkpoint::HfFolder::Open(scratch / "merged");
  ASSERT_TRUE(folder.ok()) << folder.status();
  ASSERT_TRUE(checkpoint::LoadParameters(*folder, merged.parameters()).ok());
  merged.InvalidatePacked();
  const std::vector<uint32_t> tokens = {3, 4, 5, 6, 1, 3, 4, 5, 6, 0};
  const std::vector<float> a = testing::LogprobsOf(merged, tokens),
                           b = testing::LogprobsOf(again, tokens);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5);
}

}  // namespace
}  // namespace rollcall::learner
