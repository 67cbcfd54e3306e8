#include "services/cli/verify/preference_steps.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/step_replay.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::verify {
namespace {

using Json = nlohmann::json;

constexpr double kFigure = 1e-4;  // absolute, beyond which relative: as losses
constexpr int64_t kNotTaught = -100;

v1::Stage StageOf(const std::string& reference) {
  const std::pair<const char*, v1::Stage> kTrainers[] = {{"SFTTrainer", v1::STAGE_SFT},
                                                         {"DPOTrainer", v1::STAGE_DPO},
                                                         {"CPOTrainer", v1::STAGE_SIMPO},
                                                         {"ORPOTrainer", v1::STAGE_ORPO},
                                                         {"KTOTrainer", v1::STAGE_KTO}};
  for (const auto& [name, stage] : kTrainers) {
    if (absl::StrContains(reference, name)) return stage;
  }
  return v1::STAGE_UNSPECIFIED;
}

v1::RunConfig RunOf(const Json& golden, v1::Stage stage) {
  const Json settings = golden.at("settings");
  v1::RunConfig config;
  config.set_stage(stage);
  v1::PreferenceSection& preference = *config.mutable_preference();
  preference.set_beta(settings.value("beta", 0.1f));
  preference.set_mean_log_prob(stage == v1::STAGE_SIMPO);
  preference.set_target_margin(settings.value("simpo_gamma", 0.0f));
  preference.set_sft_weight(stage == v1::STAGE_SIMPO ? settings.value("cpo_alpha", 0.0f) : 0.0f);
  preference.set_desirable_weight(settings.value("desirable_weight", 1.0f));
  preference.set_undesirable_weight(settings.value("undesirable_weight", 1.0f));
  const auto loss = settings.find("loss_type");
  if (stage == v1::STAGE_DPO && loss != settings.end() &&
      loss->dump().find("ipo") != std::string::npos) {
    preference.set_loss(v1::PREFERENCE_LOSS_IPO);
    preference.set_mean_log_prob(true);
  }
  v1::LearnerSection& learner = *config.mutable_learner();
  learner.set_steps(2);
  learner.set_micro_batch_tokens(64);  // more than one micro-batch
  *learner.mutable_optimizer() = OptimizerOf(golden);
  return config;
}

// What reached the loss in one call.
class Call {
 public:
  Call(const GoldenTensors& tensors, size_t index)
      : tensors_(tensors), prefix_(absl::StrCat("call", index, ".")) {}

  int64_t Rows(const std::string& name) const { return Tensor(name).size(0); }
  bool Label(int64_t row) const { return Tensor("label")[row].to(at::kLong).item<int64_t>() != 0; }

  // Row `row` of <side>input_ids without its padding; the loss is on the tokens of <side>labels, or
  // where that is not there of <side>completion_mask.
  learner::TrainSequence Sequence(const std::string& side, int64_t row) const {
    const at::Tensor ids = Row(side + "input_ids", row), kept = Row(side + "attention_mask", row);
    const bool labelled = tensors_.contains(prefix_ + side + "labels");
    const at::Tensor taught = Row(side + (labelled ? "labels" : "completion_mask"), row);
    learner::TrainSequence sequence;
    for (int64_t t = 0; t < ids.numel(); ++t) {
      if (At(kept, t) == 0) continue;
      sequence.token_ids.push_back(static_cast<uint32_t>(At(ids, t)));
      const bool in_loss = labelled ? At(taught, t) != kNotTaught : At(taught, t) != 0;
      sequence.loss_mask.push_back(in_loss ? 1 : 0);
    }
    sequence.loss_mask.front() = 0;  // nothing predicts it
    return sequence;
  }

 private:
  at::Tensor Tensor(const std::string& name) const {
    const auto found = tensors_.find(prefix_ + name);
    TORCH_CHECK(found != tensors_.end(), "tensor '", prefix_ + name, "' is not there");
    return found->second;
  }
  at::Tensor Row(const std::string& name, int64_t row) const {
    return Tensor(name)[row].to(at::kLong).contiguous();
  }
  static int64_t At(const at::Tensor& row, int64_t t) { return row.const_data_ptr<int64_t>()[t]; }

  const GoldenTensors& tensors_;
  const std::string prefix_;
};

// TRL's ORPO teaches the chosen completion's prompt, too.
void TeachPrompt(learner::TrainSequence& sequence) {
  for (size_t t = 0; t < sequence.loss_mask.size(); ++t) {
    sequence.likelihood_only.push_back(sequence.loss_mask[t] == 0 ? 1 : 0);
    sequence.loss_mask[t] = t > 0 ? 1 : 0;
  }
}

learner::TrainBatch BatchOf(const Call& call, v1::Stage stage) {
  learner::TrainBatch batch;
  if (stage == v1::STAGE_SFT) {
    for (int64_t i = 0; i < call.Rows("input_ids"); ++i) {
      batch.sequences.push_back(call.Sequence("", i));
    }
    return batch;
  }
  if (stage == v1::STAGE_DPO) {  // the chosen ones, then the rejected ones
    const int64_t pairs = call.Rows("input_ids") / 2;
    for (int64_t i = 0; i < pairs; ++i) {
      batch.sequences.push_back(call.Sequence("", i));
      batch.sequences.push_back(call.Sequence("", i + pairs));
    }
    return batch;
  }
  const bool labelled = stage == v1::STAGE_KTO;
  const std::string first = labelled ? "" : "chosen_", second = labelled ? "KL_" : "rejected_";
  for (int64_t i = 0; i < call.Rows(first + "input_ids"); ++i) {
    learner::TrainSequence sequence = call.Sequence(first, i);
    if (stage == v1::STAGE_ORPO) TeachPrompt(sequence);
    if (labelled) sequence.preference = call.Label(i) ? 1 : 0;
    batch.sequences.push_back(std::move(sequence));
    batch.sequences.push_back(call.Sequence(second, i));
  }
  return batch;
}

// What the reference logged of the step, where it logged it.
void CompareFigures(const learner::StepReport& step, const Json& logged, const std::string& name,
                    Report& report) {
  const std::pair<const char*, const char*> kFigures[] = {
      {"train/chosen_reward", "rewards/chosen"},    {"train/rejected_reward", "rewards/rejected"},
      {"train/margin", "rewards/margins"},          {"train/chosen_logprob", "logps/chosen"},
      {"train/rejected_logprob", "logps/rejected"}, {"train/kl", "kl"}};
  double worst = 0;
  size_t compared = 0;
  for (const auto& [ours, theirs] : kFigures) {
    const auto found = logged.find(theirs);
    if (found == logged.end()) continue;
    const auto value = step.metrics.find(ours);
    const double expected = found->get<double>();
    worst =
        std::max(worst, value == step.metrics.end() ? std::numeric_limits<double>::infinity()
                                                    : AbsoluteDifference(value->second, expected) /
                                                          std::max(1.0, std::abs(expected)));
    ++compared;
  }
  if (compared > 0) {
    report.Compare(absl::StrCat(name, ": rewards and log-probs"), worst, kFigure,
                   absl::StrCat(compared, " figures; relative above 1"));
  }
}

}  // namespace

bool IsOfflineTrainer(const std::string& reference) {
  return StageOf(reference) != v1::STAGE_UNSPECIFIED;
}

absl::Status ReplayOfflineSteps(const std::string& model_folder, const Json& golden,
                                const GoldenTensors& tensors, Report& report) {
  const v1::Stage stage = StageOf(golden.value("reference", ""));
  const v1::RunConfig config = RunOf(golden, stage);
  const c10::Device cpu(c10::kCPU);
  ROLLCALL_ASSIGN_OR_RETURN(ModelRunner reference,
                            ModelRunner::Open(model_folder, at::kFloat, cpu));
  ROLLCALL_ASSIGN_OR_RETURN(ModelRunner trained, ModelRunner::Open(model_folder, at::kFloat, cpu));
  learner::SingleProcess group;
  ROLLCALL_ASSIGN_OR_RETURN(const std::unique_ptr<learner::Trainer> trainer,
                            learner::Trainer::Create(config, std::move(trained.decoder()), &group));
  for (size_t i = 0; i < golden.at("loss_calls").size(); ++i) {
    learner::TrainBatch batch = BatchOf(Call(tensors, i), stage);
    if (stage == v1::STAGE_DPO || stage == v1::STAGE_KTO) {
      ROLLCALL_RETURN_IF_ERROR(FillLogprobs(reference, 1.0, Column::kReference, batch));
    }
    ROLLCALL_ASSIGN_OR_RETURN(const learner::StepReport step, trainer->TrainStep(batch));
    ROLLCALL_RETURN_IF_ERROR(CompareStep(*trainer, step, golden, i, report));
    CompareFigures(step, golden.at("logs")[i], absl::StrCat("step ", i + 1), report);
  }
  return absl::OkStatus();
}

}  // namespace rollcall::verify
