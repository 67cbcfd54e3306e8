// Five AdamW steps of transformers' own Llama models (golden/models), replayed through the trainer:
// losses, gradient norms before clipping and the parameters after.
#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "services/learner/trainer/tiny_runs.h"

namespace rollcall::learner {
namespace {

using nlohmann::json;
using testing::NewTrainer;
using testing::TinyRun;

v1::RunConfig RunOf(const json& adamw) {
  v1::RunConfig config = TinyRun(v1::STAGE_SFT);
  const json& settings = adamw["settings"];
  auto& optimizer = *config.mutable_learner()->mutable_optimizer();
  optimizer.set_lr(settings["lr"].get<float>());
  optimizer.set_beta1(settings["betas"][0].get<float>());
  optimizer.set_beta2(settings["betas"][1].get<float>());
  optimizer.set_epsilon(settings.value("eps", 1e-8f));
  optimizer.set_weight_decay(settings["weight_decay"].get<float>());
  optimizer.set_max_grad_norm(adamw["grad_clip"].get<float>());
  config.mutable_learner()->set_micro_batch_tokens(64);  // more than one micro-batch
  return config;
}

// The three sequences, every token but the first in the loss.
TrainBatch BatchOf(const std::map<std::string, at::Tensor>& tensors) {
  TrainBatch batch;
  for (uint64_t i = 0; i < 3; ++i) {
    const at::Tensor ids = tensors.at("seq" + std::to_string(i) + ".input_ids").contiguous();
    TrainSequence sequence;
    sequence.group_id = i;
    for (int64_t j = 0; j < ids.numel(); ++j) {
      sequence.token_ids.push_back(static_cast<uint32_t>(ids.const_data_ptr<int64_t>()[j]));
    }
    sequence.loss_mask.assign(sequence.token_ids.size(), 1);
    sequence.loss_mask[0] = 0;
    batch.sequences.push_back(std::move(sequence));
  }
  return batch;
}

// Tolerances of golden/README.md, "models".
void ExpectParameters(const Trainer& trainer, const json& expected) {
  // Adam turns a gradient at noise level into a whole step, so a few entries may differ.
  int checked = 0, off = 0;
  for (const auto& [name, parameter] : trainer.decoder().parameters()) {
    const json& entry = expected.at(name);
    const at::Tensor values = parameter.detach().to(at::kDouble).contiguous();
    const double l2 = std::sqrt(values.square().sum().item<double>());
    EXPECT_NEAR(l2, entry["l2"].get<double>(), 1e-5 * l2) << name;
    for (size_t i = 0; i < entry["sampled_flat_index"].size(); ++i) {
      const double value =
          values.const_data_ptr<double>()[entry["sampled_flat_index"][i].get<int64_t>()];
      ++checked;
      off += std::abs(value - entry["sampled_value"][i].get<double>()) > 2e-5 ? 1 : 0;
    }
  }
  EXPECT_GT(checked, 100);
  EXPECT_LE(off, checked / 100);
}

TEST(GoldenTraining, FiveStepsOfTheReference) {
  const model::testing::ThreadCount scope(1);
  const char* data = std::getenv("ROLLCALL_TEST_DATA");
  const std::string models = std::string(data == nullptr ? "" : data) + "/golden/models/";
  if (!std::filesystem::exists(models)) GTEST_SKIP() << "no golden models in ROLLCALL_TEST_DATA";
  for (const std::string name : {"llama_rope3", "llama_tied"}) {
    SCOPED_TRACE(name);
    const json adamw = json::parse(std::ifstream(models + name + ".expected.json"))["adamw"];
    const auto folder = checkpoint::HfFolder::Open(models + name).value();
    const auto config = model::ModelConfig::FromJson(folder.config_json(), name).value();
    auto decoder = model::Decoder::Create(config, at::kFloat, at::Device(at::kCPU)).value();
    ASSERT_TRUE(checkpoint::LoadParameters(folder, decoder.parameters()).ok());
    const TrainBatch batch =
        BatchOf(checkpoint::LoadTensors(models + name + ".expected.safetensors").value());
    const auto trainer = NewTrainer(RunOf(adamw), std::move(decoder));
    for (const json& step : adamw["steps"]) {
      const auto report = trainer->TrainStep(batch);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_NEAR(report->metrics.at("train/loss"), step["loss_before"].get<double>(), 1e-4);
      const double norm = step["grad_norm_before_clip"];
      EXPECT_NEAR(report->metrics.at("train/grad_norm"), norm, 1e-4 * norm);
    }
    ExpectParameters(*trainer, adamw["params_after"]);
  }
}

}  // namespace
}  // namespace rollcall::learner
