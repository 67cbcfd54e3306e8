#include "services/cli/verify/step_replay.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/cli/verify/comparison.h"

namespace rollcall::verify {
namespace {

using Json = nlohmann::json;

constexpr double kLoss = 1e-4;            // absolute
constexpr double kNorm = 1e-4;            // relative
constexpr double kParameterNorm = 1e-5;   // relative
constexpr double kParameterEntry = 2e-5;  // absolute
// Adam turns a gradient at noise level into a whole step: this many sampled entries may differ.
constexpr size_t kStrayEntries = 4;

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

}  // namespace

v1::OptimizerSection OptimizerOf(const Json& golden) {
  const Json adam = golden.at("optimizer");
  v1::OptimizerSection optimizer;
  optimizer.set_lr(golden.at("logs")[0].at("learning_rate"));
  optimizer.set_beta1(adam.at("adam_beta1"));
  optimizer.set_beta2(adam.at("adam_beta2"));
  optimizer.set_epsilon(adam.at("adam_epsilon"));
  optimizer.set_weight_decay(adam.at("weight_decay"));
  optimizer.set_max_grad_norm(adam.at("max_grad_norm"));
  return optimizer;
}

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

absl::Status CompareStep(const learner::Trainer& trainer, const learner::StepReport& step,
                         const Json& golden, size_t index, Report& report) {
  const std::string name = absl::StrCat("step ", index + 1);
  report.Compare(
      name + ": loss",
      AbsoluteDifference(step.metrics.at("train/loss"), golden.at("loss_calls")[index].at("loss")),
      kLoss);
  report.Compare(name + ": gradient norm",
                 RelativeDifference(step.metrics.at("train/grad_norm"),
                                    golden.at("logs")[index].at("grad_norm")),
                 kNorm, "relative");
  return CompareParameters(trainer, golden.at("params_after")[index], name, report);
}

}  // namespace rollcall::verify
