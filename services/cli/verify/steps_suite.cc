#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"
#include "common/tensor/torch_call.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/preference_steps.h"
#include "services/cli/verify/step_replay.h"
#include "services/cli/verify/suite.h"
#include "services/learner/trainer/trainer.h"

// Folder format: shared/data/golden/README.md, section "steps": two optimizer steps of TRL's
// trainers on the checkpoint stories260k beside the golden folder, replayed by the learner's own
// trainer.
namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint32_t kEndOfText = 2;

// The cells of our table that TRL's settings stand for.
v1::AlgorithmSection AlgorithmOf(const Json& settings, bool rloo) {
  v1::AlgorithmSection algorithm;
  algorithm.set_samples_per_prompt(settings.value("num_generations", 4u));
  algorithm.set_min_valid_samples(2);
  algorithm.set_advantage_epsilon(1e-4f);
  algorithm.set_gamma(1);
  algorithm.set_kl_coefficient(settings.value("beta", 0.0f));
  algorithm.set_clip_low(settings.value("epsilon", 0.2f));
  algorithm.set_clip_high(settings.value("epsilon_high", algorithm.clip_low()));
  algorithm.set_epochs_per_batch(1);
  algorithm.set_mini_batches(1);
  if (rloo) {
    algorithm.set_advantage_baseline(v1::ADVANTAGE_BASELINE_LEAVE_ONE_OUT);
    algorithm.set_advantage_normalization(v1::ADVANTAGE_NORMALIZATION_NONE);
    algorithm.set_ratio_level(v1::RATIO_LEVEL_SEQUENCE_SUM);
    algorithm.set_kl_placement(v1::KL_PLACEMENT_REWARD);
    algorithm.set_kl_estimator(v1::KL_ESTIMATOR_K1);
    return algorithm;
  }
  // TRL's trainer multiplies the KL by the ratio: on-policy, k3's value with the KL's own gradient.
  algorithm.set_kl_straight_through(algorithm.kl_coefficient() > 0);
  const std::string type = settings.value("loss_type", "dapo");  // TRL's default
  if (type == "dapo" || type == "cispo") {
    algorithm.set_aggregation(v1::LOSS_AGGREGATION_TOKEN_MEAN);
  } else if (type == "dr_grpo") {
    algorithm.set_aggregation(v1::LOSS_AGGREGATION_CONSTANT_LENGTH);
  }
  if (type == "cispo") {
    algorithm.set_policy_loss(v1::POLICY_LOSS_TYPE_CISPO);
    algorithm.set_clip_low(1);
    algorithm.set_clip_high(settings.value("epsilon_high", 0.0f) - 1);
  }
  if (settings.value("importance_sampling_level", "token") == "sequence") {
    algorithm.set_ratio_level(v1::RATIO_LEVEL_SEQUENCE_MEAN);
  }
  if (settings.value("scale_rewards", "group") == "none") {
    algorithm.set_advantage_normalization(v1::ADVANTAGE_NORMALIZATION_NONE);
  }
  algorithm.set_mask_truncated(settings.value("mask_truncated_completions", false));
  return algorithm;
}

v1::RunConfig RunOf(const Json& golden, bool rloo) {
  const Json settings = golden.at("settings");
  v1::RunConfig config;
  config.set_stage(v1::STAGE_RL);
  *config.mutable_algorithm() = AlgorithmOf(settings, rloo);
  config.mutable_sampling()->set_temperature(settings.value("temperature", 1.0f));
  config.mutable_sampling()->set_max_tokens(settings.at("max_completion_length"));
  v1::LearnerSection& learner = *config.mutable_learner();
  learner.set_steps(2);
  learner.set_micro_batch_tokens(64);  // more than one micro-batch
  *learner.mutable_optimizer() = OptimizerOf(golden);
  return config;
}

learner::TrainBatch BatchOf(const Json& golden) {
  const auto group_size = golden.at("settings").value("num_generations", size_t{4});
  learner::TrainBatch batch;
  for (size_t row = 0; row < golden.at("rewards").size(); ++row) {
    learner::TrainSequence sequence;
    sequence.group_id = row / group_size;
    sequence.sample_index = static_cast<uint32_t>(row % group_size);
    sequence.token_ids = golden.at("prompt_token_ids")[row].get<std::vector<uint32_t>>();
    sequence.loss_mask.assign(sequence.token_ids.size(), 0);
    for (const Json& id : golden.at("completion_token_ids")[row]) {
      sequence.token_ids.push_back(id);
      sequence.loss_mask.push_back(1);
    }
    sequence.truncated = sequence.token_ids.back() != kEndOfText;
    sequence.reward = golden.at("rewards")[row].get<double>();
    if (batch.group_ids.empty() || batch.group_ids.back() != sequence.group_id) {
      batch.group_ids.push_back(sequence.group_id);
    }
    batch.sequences.push_back(std::move(sequence));
  }
  return batch;
}

// Copies the trainer's weights into the scorer.
void Follow(const learner::Trainer& trainer, ModelRunner& scorer) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < scorer.decoder().parameters().size(); ++i) {
    scorer.decoder().parameters()[i].tensor.copy_(trainer.decoder().parameters()[i].tensor);
  }
  scorer.decoder().InvalidatePacked();
}

absl::Status ReplaySteps(const std::string& model_folder, const Json& golden, bool rloo,
                         Report& report) {
  const v1::RunConfig config = RunOf(golden, rloo);
  const double temperature = config.sampling().temperature();
  const c10::Device cpu(c10::kCPU);
  ROLLCALL_ASSIGN_OR_RETURN(ModelRunner scorer, ModelRunner::Open(model_folder, at::kFloat, cpu));
  ROLLCALL_ASSIGN_OR_RETURN(ModelRunner trained, ModelRunner::Open(model_folder, at::kFloat, cpu));
  learner::SingleProcess group;
  ROLLCALL_ASSIGN_OR_RETURN(const std::unique_ptr<learner::Trainer> trainer,
                            learner::Trainer::Create(config, std::move(trained.decoder()), &group));
  learner::TrainBatch batch = BatchOf(golden);
  ROLLCALL_RETURN_IF_ERROR(FillLogprobs(scorer, temperature, Column::kBehavior, batch));
  ROLLCALL_RETURN_IF_ERROR(FillLogprobs(scorer, temperature, Column::kReference, batch));
  const bool reuses_rollout = golden.at("settings").value("num_iterations", 1) > 1;
  for (size_t i = 0; i < golden.at("loss_calls").size(); ++i) {
    if (i > 0 && !reuses_rollout) {
      Follow(*trainer, scorer);
      ROLLCALL_RETURN_IF_ERROR(FillLogprobs(scorer, temperature, Column::kBehavior, batch));
    }
    ROLLCALL_ASSIGN_OR_RETURN(const learner::StepReport step, trainer->TrainStep(batch));
    ROLLCALL_RETURN_IF_ERROR(CompareStep(*trainer, step, golden, i, report));
  }
  return absl::OkStatus();
}

class StepsSuite : public Suite {
 public:
  std::string_view name() const override { return "steps"; }

  absl::Status Run(const SuiteInput& input, Report& report) const override {
    const fs::path folder = fs::path(input.root) / std::string(name());
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> cases, CaseNames(folder.string()));
    for (const std::string& stem : cases) {
      report.Begin(name(), stem);
      const absl::Status status = tensor::TorchCall(
          [&] { return CompareCase(input.root, (folder / stem).string(), report); });
      if (!status.ok()) report.Fail("case", status.ToString());
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status CompareCase(const std::string& root, const std::string& stem,
                                  Report& report) {
    ROLLCALL_ASSIGN_OR_RETURN(const Json golden, ReadGoldenJson(stem + ".json"));
    const std::string reference = golden.value("reference", "");
    const bool rloo = reference.find("RLOOTrainer") != std::string::npos;
    const bool offline = IsOfflineTrainer(reference);
    if (!rloo && !offline && reference.find("GRPOTrainer") == std::string::npos) {
      report.NotSupported("all", absl::StrCat(reference, ": not a trainer of this build"));
      return absl::OkStatus();
    }
    const std::string model = golden.value("model", "stories260k");
    const fs::path checkpoint = fs::path(root) / ".." / model.substr(0, model.find(','));
    const std::string folder = fs::absolute(checkpoint).lexically_normal().string();
    if (!fs::exists(folder)) {
      report.NotSupported("all", absl::StrCat(folder, ": the checkpoint is not there"));
      return absl::OkStatus();
    }
    if (!offline) return ReplaySteps(folder, golden, rloo, report);
    ROLLCALL_ASSIGN_OR_RETURN(const GoldenTensors tensors,
                              checkpoint::LoadTensors(stem + ".safetensors"));
    return ReplayOfflineSteps(folder, golden, tensors, report);
  }
};

}  // namespace

std::unique_ptr<Suite> MakeStepsSuite() { return std::make_unique<StepsSuite>(); }

}  // namespace rollcall::verify
