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
#include "common/tensor/torch_call.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/suite.h"
#include "services/learner/trainer/trainer.h"

// Folder format: shared/data/golden/README.md, section "steps": two optimizer steps of TRL's
// trainers on the checkpoint stories260k beside the golden folder, replayed by the learner's own
// trainer.
namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr double kLoss = 1e-4;            // absolute
constexpr double kNorm = 1e-4;            // relative
constexpr double kParameterNorm = 1e-5;   // relative
constexpr double kParameterEntry = 2e-5;  // absolute
// Adam turns a gradient at noise level into a whole step: this many sampled entries may differ.
constexpr size_t kStrayEntries = 4;
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
  const Json settings = golden.at("settings"), adam = golden.at("optimizer");
  v1::RunConfig config;
  config.set_stage(v1::STAGE_RL);
  *config.mutable_algorithm() = AlgorithmOf(settings, rloo);
  config.mutable_sampling()->set_temperature(settings.value("temperature", 1.0f));
  config.mutable_sampling()->set_max_tokens(settings.at("max_completion_length"));
  v1::LearnerSection& learner = *config.mutable_learner();
  learner.set_steps(2);
  learner.set_micro_batch_tokens(64);  // more than one micro-batch
  v1::OptimizerSection& optimizer = *learner.mutable_optimizer();
  optimizer.set_lr(golden.at("logs")[0].at("learning_rate"));
  optimizer.set_beta1(adam.at("adam_beta1"));
  optimizer.set_beta2(adam.at("adam_beta2"));
  optimizer.set_epsilon(adam.at("adam_epsilon"));
  optimizer.set_weight_decay(adam.at("weight_decay"));
  optimizer.set_max_grad_norm(adam.at("max_grad_norm"));
  return config;
}

// Log-probs of every token after the first under the runner's weights; 0 for the first.
absl::StatusOr<std::vector<float>> LogprobsOf(ModelRunner& runner,
                                              const std::vector<uint32_t>& token_ids,
                                              double temperature) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids =
      at::tensor(std::vector<int64_t>(token_ids.begin(), token_ids.end()), at::kLong);
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden,
                            runner.Hidden(ForwardPath::kPacked, {ids}));
  ROLLCALL_ASSIGN_OR_RETURN(const ModelRunner::Scores scores,
                            runner.Score(hidden[0], ids, temperature));
  std::vector<float> logprobs = {0};
  const at::Tensor host = scores.logprobs.to(at::kCPU).contiguous();
  logprobs.insert(logprobs.end(), host.const_data_ptr<float>(),
                  host.const_data_ptr<float>() + host.numel());
  return logprobs;
}

enum class Column { kBehavior, kReference };

absl::Status FillLogprobs(ModelRunner& runner, double temperature, Column column,
                          learner::TrainBatch& batch) {
  for (learner::TrainSequence& sequence : batch.sequences) {
    ROLLCALL_ASSIGN_OR_RETURN(std::vector<float> logprobs,
                              LogprobsOf(runner, sequence.token_ids, temperature));
    (column == Column::kBehavior ? sequence.behavior_logprobs : sequence.reference_logprobs) =
        std::move(logprobs);
  }
  return absl::OkStatus();
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

absl::Status CompareParameters(const learner::Trainer& trainer, const Json& summaries,
                               const std::string& step, Report& report) {
  double l2 = 0;
  std::vector<double> entries;
  for (const tensor::NamedTensor& parameter : trainer.decoder().parameters()) {
    const Json summary = summaries.value(parameter.name, Json());
    ROLLCALL_ASSIGN_OR_RETURN(const TensorSummary golden,
                              Annotate(SummaryFromJson(summary), parameter.name));
    ROLLCALL_ASSIGN_OR_RETURN(const TensorSummary ours,
                              Summarize(parameter.tensor, golden.indices));
    l2 = std::max(l2, RelativeDifference(ours.l2, golden.l2));
    for (size_t i = 0; i < golden.values.size(); ++i) {
      entries.push_back(AbsoluteDifference(ours.values[i], golden.values[i]));
    }
  }
  std::sort(entries.begin(), entries.end());
  const size_t kept = entries.size() - std::min(entries.size(), kStrayEntries);
  report.Compare(step + ": parameters l2", l2, kParameterNorm, "relative");
  report.Compare(step + ": parameter entries", kept == 0 ? 0 : entries[kept - 1], kParameterEntry,
                 absl::StrCat(kStrayEntries, " of ", entries.size(), " may be beyond"));
  return absl::OkStatus();
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
    const std::string name = absl::StrCat("step ", i + 1);
    report.Compare(
        name + ": loss",
        AbsoluteDifference(step.metrics.at("train/loss"), golden.at("loss_calls")[i].at("loss")),
        kLoss);
    report.Compare(name + ": gradient norm",
                   RelativeDifference(step.metrics.at("train/grad_norm"),
                                      golden.at("logs")[i].at("grad_norm")),
                   kNorm, "relative");
    ROLLCALL_RETURN_IF_ERROR(
        CompareParameters(*trainer, golden.at("params_after")[i], name, report));
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
          [&] { return CompareCase(input.root, (folder / stem).string() + ".json", report); });
      if (!status.ok()) report.Fail("case", status.ToString());
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status CompareCase(const std::string& root, const std::string& path,
                                  Report& report) {
    ROLLCALL_ASSIGN_OR_RETURN(const Json golden, ReadGoldenJson(path));
    const std::string reference = golden.value("reference", "");
    const bool rloo = reference.find("RLOOTrainer") != std::string::npos;
    if (!rloo && reference.find("GRPOTrainer") == std::string::npos) {
      report.NotSupported("all", absl::StrCat(reference, ": not an online trainer of this build"));
      return absl::OkStatus();
    }
    const std::string model = golden.value("model", "stories260k");
    const fs::path checkpoint = fs::path(root) / ".." / model.substr(0, model.find(','));
    const std::string folder = fs::absolute(checkpoint).lexically_normal().string();
    if (!fs::exists(folder)) {
      report.NotSupported("all", absl::StrCat(folder, ": the checkpoint is not there"));
      return absl::OkStatus();
    }
    return ReplaySteps(folder, golden, rloo, report);
  }
};

}  // namespace

std::unique_ptr<Suite> MakeStepsSuite() { return std::make_unique<StepsSuite>(); }

}  // namespace rollcall::verify
