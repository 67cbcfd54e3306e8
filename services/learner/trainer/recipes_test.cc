// Every ready configuration: it loads, and its objective takes two steps of a tiny model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
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

TEST(Recipes, EachLoadsAndTakesTwoSteps) {
  size_t trained = 0;
  std::set<v1::AlgorithmPreset> presets;
  for (const std::string& path : Recipes()) {
    SCOPED_TRACE(path);
    const std::vector<std::string> sets = {"model.path=m", "learner.micro_batch_tokens=64",
                                           "sampling.temperature=1",
                                           "learner.critic.warmup_steps=0"};
    auto config = config::LoadRunConfig(path, sets);
    ASSERT_TRUE(config.ok()) << config.status();
    if (config->stage() != v1::STAGE_RL) continue;
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
    for (uint64_t step = 1; step <= 2; ++step) {
      const auto report = trainer->TrainStep(testing::RolloutBatch(decoder, step, 4, 0.01));
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(report->skipped_updates, 0u);
      EXPECT_GT(report->metrics.at("train/grad_norm"), 0);
    }
  }
  // A recipe per preset, R1's, PPO with a reward model, an asynchronous one, and one with an adapter.
  EXPECT_EQ(presets.size(), testing::AllPresets().size());
  EXPECT_GE(trained, presets.size() + 4);
}

}  // namespace
}  // namespace rollcall::learner
