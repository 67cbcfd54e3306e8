// Every ready configuration: it loads, and takes two steps of a tiny model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "common/config/run_config.h"
#include "common/model/adapter_folder.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

std::vector<std::string> Recipes() {
  const char* root = std::getenv("ROLLCALL_SOURCE_DIR");
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(
           std::string(root == nullptr ? "." : root) + "/configs", error)) {
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// What a stage of recorded data is trained on: pairs, labelled completions or demonstrations.
TrainBatch RecordedBatch(v1::Stage stage, uint64_t seed) {
  TrainBatch batch = testing::CopyTask(seed, 8);
  model::Decoder reference = testing::NewDecoder(testing::TinyModel(), 1);
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    TrainSequence& sequence = batch.sequences[i];
    sequence.reference_logprobs = testing::LogprobsOf(reference, sequence.token_ids);
    if (stage == v1::STAGE_KTO) sequence.preference = i / 2 % 2 == 0 ? 1 : 0;
  }
  return batch;
}

model::Decoder InitialModel(v1::Stage stage) {
  model::ModelConfig config = testing::TinyModel();
  if (stage == v1::STAGE_REWARD_MODEL) config.head = model::Head::kSequenceScore;
  return testing::NewDecoder(config, 1);
}

void ExpectTwoSteps(Trainer& trainer, const std::function<TrainBatch(uint64_t)>& batch) {
  for (uint64_t step = 1; step <= 2; ++step) {
    const auto report = trainer.TrainStep(batch(step));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->skipped_updates, 0u);
    EXPECT_GT(report->metrics.at("train/grad_norm"), 0);
  }
}

TEST(Recipes, EachLoadsAndTakesTwoSteps) {
  size_t trained = 0;
  std::set<v1::AlgorithmPreset> presets;
  std::set<v1::Stage> stages;
  for (const std::string& path : Recipes()) {
    SCOPED_TRACE(path);
    const std::vector<std::string> sets = {"model.path=m", "learner.micro_batch_tokens=64",
                                           "sampling.temperature=1",
                                           "learner.critic.warmup_steps=0"};
    auto config = config::LoadRunConfig(path, sets);
    ASSERT_TRUE(config.ok()) << config.status();
    stages.insert(config->stage());
    if (config->stage() == v1::STAGE_RLAIF) continue;  // a chain of the other stages
    if (config->stage() != v1::STAGE_RL) {
      config->mutable_learner()->mutable_optimizer()->set_warmup_steps(0);
      const auto trainer = testing::NewTrainer(*config, InitialModel(config->stage()));
      ExpectTwoSteps(*trainer, [&](uint64_t step) { return RecordedBatch(config->stage(), step); });
      continue;
    }
    ++trained;
    presets.insert(config->algorithm().preset());
    const auto policy = [&] {
      model::Decoder decoder = testing::NewDecoder(testing::TinyModel(), 1);
      const absl::Status adapted = model::AddConfiguredAdapter(config->model(), 5, decoder);
      EXPECT_TRUE(adapted.ok()) << adapted;
      return decoder;
    };
    const auto trainer = testing::NewPresetTrainer(*config, policy());
    model::Decoder decoder = policy();
    ExpectTwoSteps(*trainer,
                   [&](uint64_t step) { return testing::RolloutBatch(decoder, step, 4, 0.01); });
  }
  for (const v1::Stage stage : {v1::STAGE_SFT, v1::STAGE_REWARD_MODEL, v1::STAGE_DPO,
                                v1::STAGE_SIMPO, v1::STAGE_ORPO, v1::STAGE_KTO}) {
    EXPECT_TRUE(stages.contains(stage)) << v1::Stage_Name(stage);
  }
  // A recipe per preset, R1's, PPO with a reward model, an asynchronous one, and one with an adapter.
  EXPECT_EQ(presets.size(), testing::AllPresets().size());
  EXPECT_GE(trained, presets.size() + 4);
}

}  // namespace
}  // namespace rollcall::learner
