#pragma once

// Small models, batches and configurations for this folder's tests.

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/philox.h"
#include "common/model/decoder.h"
#include "common/model/test_models.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner::testing {

inline model::ModelConfig TinyModel() {
  model::ModelConfig config;
  config.vocab_size = 16;
  config.hidden_size = 32;
  config.intermediate_size = 64;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.max_position_embeddings = 128;
  return config;
}

// The demo's model (demo_task.md): 332,416 parameters.
inline model::ModelConfig DemoModel() {
  model::ModelConfig config = TinyModel();
  config.hidden_size = 128;
  config.intermediate_size = 256;
  config.num_kv_heads = 4;
  config.head_dim = 32;
  return config;
}

inline model::Decoder NewDecoder(const model::ModelConfig& config, uint64_t seed,
                                 at::ScalarType dtype = at::kFloat) {
  auto decoder = model::Decoder::Create(config, dtype, at::Device(at::kCPU));
  EXPECT_TRUE(decoder.ok()) << decoder.status();
  decoder->InitializeRandom(seed);
  return *std::move(decoder);
}

inline v1::RunConfig TinyRun(v1::Stage stage) {
  v1::RunConfig config;
  config.set_seed(1);
  config.set_stage(stage);
  config.mutable_sampling()->set_temperature(1.0f);
  auto& algorithm = *config.mutable_algorithm();
  algorithm.set_samples_per_prompt(4);
  algorithm.set_min_valid_samples(2);
  algorithm.set_clip_low(0.2f);
  algorithm.set_clip_high(0.2f);
  algorithm.set_kl_coefficient(0.04f);
  algorithm.set_advantage_epsilon(1e-4f);
  algorithm.set_epochs_per_batch(1);
  algorithm.set_mini_batches(1);
  auto& learner = *config.mutable_learner();
  learner.set_steps(100);
  learner.set_micro_batch_tokens(16384);
  learner.set_on_gap(v1::GAP_ACTION_FAIL);
  learner.set_max_consecutive_skipped_steps(3);
  auto& optimizer = *learner.mutable_optimizer();
  optimizer.set_lr(1e-3f);
  optimizer.set_beta1(0.9f);
  optimizer.set_beta2(0.99f);
  optimizer.set_epsilon(1e-8f);
  optimizer.set_max_grad_norm(1.0f);
  return config;
}

inline std::unique_ptr<Trainer> NewTrainer(const v1::RunConfig& config, model::Decoder decoder) {
  static SingleProcess group;
  auto trainer = Trainer::Create(config, std::move(decoder), &group);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  return *std::move(trainer);
}

// A value model of the same size, random.
inline model::Decoder NewCritic(uint64_t seed) {
  model::ModelConfig config = TinyModel();
  config.head = model::Head::kTokenScore;
  return NewDecoder(config, seed);
}

// NewTrainer with the companions that the objective asks for: NewCritic(7), and as the reference a
// decoder like NewDecoder(TinyModel(), 1).
std::unique_ptr<Trainer> NewPresetTrainer(const v1::RunConfig& config, model::Decoder decoder);

// A small run with the cells of `preset`, as a YAML file gives them, then `overrides`
// ("algorithm.clip_low=0.1"): 12 tokens at most, micro-batches of 30.
v1::RunConfig PresetRun(v1::AlgorithmPreset preset, const std::vector<std::string>& overrides = {});

// Every preset of the schema.
std::vector<v1::AlgorithmPreset> AllPresets();

// Copying: a 1 teaches "repeat the four tokens before it". Prompt of four tokens in [2, 16), 1, the
// four tokens, 0.
inline TrainBatch CopyTask(uint64_t seed, size_t sequences) {
  PhiloxStream random(seed, 99);
  TrainBatch batch;
  for (size_t i = 0; i < sequences; ++i) {
    TrainSequence sequence;
    sequence.group_id = i;
    for (int j = 0; j < 4; ++j)
      sequence.token_ids.push_back(2 + static_cast<uint32_t>(random.Below(14)));
    sequence.token_ids.push_back(1);
    for (int j = 0; j < 4; ++j) sequence.token_ids.push_back(sequence.token_ids[j]);
    sequence.token_ids.push_back(0);
    sequence.loss_mask = {0, 0, 0, 0, 0, 1, 1, 1, 1, 1};
    batch.sequences.push_back(std::move(sequence));
  }
  return batch;
}

// Log-probs of every token but the first of `tokens` under `decoder`, as a generator reports them.
std::vector<float> LogprobsOf(model::Decoder& decoder, const std::vector<uint32_t>& tokens,
                              float temperature = 1.0f);

// `groups` groups of four random sequences of various lengths with random rewards. Rollout
// log-probs are the decoder's own plus `drift` times noise (0: on-policy); reference log-probs
// likewise with a drift of 0.1. Each group has a random greedy reward.
TrainBatch RolloutBatch(model::Decoder& decoder, uint64_t seed, size_t groups, double drift);

// All parameters, one after the other.
std::vector<at::Tensor> CopyParameters(const Trainer& trainer);
// AdamW's first moments, in the order of the parameters; with beta1 = 0, the last gradient.
std::vector<at::Tensor> FirstMoments(const Trainer& trainer);
void ExpectSameBits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b);

}  // namespace rollcall::learner::testing
