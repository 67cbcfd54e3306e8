#include "services/learner/trainer/tiny_runs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "common/base/philox.h"
#include "common/config/algorithm_presets.h"
#include "common/config/yaml.h"
#include "common/model/attention_context.h"
#include "common/model/scoring.h"

namespace rollcall::learner::testing {

std::unique_ptr<Trainer> NewPresetTrainer(const v1::RunConfig& config, model::Decoder decoder) {
  static SingleProcess group;
  const v1::AlgorithmSection& algorithm = config.algorithm();
  TrainerCompanions companions;
  if (algorithm.advantage_baseline() == v1::ADVANTAGE_BASELINE_CRITIC) {
    companions.critic = NewCritic(7);
  }
  if (algorithm.reference_refresh_steps() > 0) companions.reference = NewDecoder(TinyModel(), 1);
  auto trainer =
      Trainer::Create(config, std::move(decoder), &group, Clock::Real(), std::move(companions));
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  return *std::move(trainer);
}

v1::RunConfig PresetRun(v1::AlgorithmPreset preset, const std::vector<std::string>& overrides) {
  std::vector<std::string> sets = {"algorithm.preset=" + config::PresetName(preset),
                                   "algorithm.samples_per_prompt=4"};
  for (const config::PresetCell& cell : config::PresetCells(preset)) {
    sets.push_back("algorithm." + std::string(cell.field) + "=" + std::string(cell.value));
  }
  sets.insert(sets.end(), overrides.begin(), overrides.end());
  v1::RunConfig cells;
  const std::vector<std::string_view> only = {"algorithm"};
  const absl::Status parsed = config::ParseYaml("", "test", sets, &cells, {.required_in = only});
  EXPECT_TRUE(parsed.ok()) << parsed;
  v1::RunConfig config = TinyRun(v1::STAGE_RL);
  *config.mutable_algorithm() = cells.algorithm();
  *config.mutable_learner()->mutable_critic() = cells.learner().critic();
  *config.mutable_learner()->mutable_critic()->mutable_optimizer() = config.learner().optimizer();
  config.mutable_sampling()->set_max_tokens(12);
  config.mutable_learner()->set_micro_batch_tokens(30);
  return config;
}

std::vector<v1::AlgorithmPreset> AllPresets() {
  std::vector<v1::AlgorithmPreset> presets;
  for (int id = 1; id < v1::AlgorithmPreset_ARRAYSIZE; ++id) {
    presets.push_back(static_cast<v1::AlgorithmPreset>(id));
  }
  return presets;
}

std::vector<float> LogprobsOf(model::Decoder& decoder, const std::vector<uint32_t>& tokens,
                              float temperature) {
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> ids(tokens.begin(), tokens.end());
  auto attention = model::PackedAttention::Create({0, static_cast<int64_t>(ids.size())}).value();
  const at::Tensor hidden = decoder.Forward(at::tensor(ids), attention.Positions(), attention);
  const at::Tensor targets = at::tensor(std::vector<int64_t>(ids.begin() + 1, ids.end()));
  const auto scores = model::ScoreTokens(decoder, hidden.slice(0, 0, hidden.size(0) - 1), targets,
                                         temperature, model::EntropyMode::kNone)
                          .value();
  std::vector<float> logprobs = {0.0f};
  const float* data = scores.logprob.const_data_ptr<float>();
  logprobs.insert(logprobs.end(), data, data + scores.logprob.numel());
  return logprobs;
}

TrainBatch RolloutBatch(model::Decoder& decoder, uint64_t seed, size_t groups, double drift) {
  PhiloxStream random(seed, 7);
  const auto noisy = [&](const std::vector<float>& logprobs, double scale) {
    std::vector<float> result;
    for (const float logprob : logprobs) {
      result.push_back(std::min(0.0f, logprob + static_cast<float>(scale * random.Normal())));
    }
    return result;
  };
  PhiloxStream greedy(seed, 8);
  TrainBatch batch;
  for (uint64_t group = 0; group < groups; ++group) {
    batch.group_ids.push_back(group + 10);
    const double greedy_reward = greedy.Uniform();
    for (uint32_t sample = 0; sample < 4; ++sample) {
      TrainSequence sequence;
      sequence.group_id = group + 10;
      sequence.sample_index = sample;
      const size_t prompt = 2 + group % 3, completion = 1 + random.Below(9);
      for (size_t i = 0; i < prompt + completion; ++i) {
        sequence.token_ids.push_back(static_cast<uint32_t>(random.Below(16)));
        sequence.loss_mask.push_back(i >= prompt ? 1 : 0);
      }
      const std::vector<float> own = LogprobsOf(decoder, sequence.token_ids);
      sequence.behavior_logprobs = drift == 0 ? own : noisy(own, drift);
      sequence.reference_logprobs = noisy(own, 0.1);
      sequence.reward = random.Uniform();
      sequence.greedy_reward = greedy_reward;
      sequence.greedy_tokens = 3;
      sequence.on_policy = drift == 0;
      batch.sequences.push_back(std::move(sequence));
    }
  }
  return batch;
}

std::vector<at::Tensor> CopyParameters(const Trainer& trainer) {
  std::vector<at::Tensor> copies;
  for (const auto& parameter : trainer.decoder().parameters()) {
    copies.push_back(parameter.tensor.detach().clone());
  }
  return copies;
}

std::vector<at::Tensor> FirstMoments(const Trainer& trainer) {
  std::vector<at::Tensor> moments;
  for (const auto& [name, value] : trainer.optimizer().State()) {
    if (name.rfind("exp_avg.", 0) == 0) moments.push_back(value);
  }
  return moments;
}

void ExpectSameBits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(model::testing::SameBits(a[i], b[i])) << "parameter " << i;
  }
}

}  // namespace rollcall::learner::testing
