#include "services/cli/verify/training_replay.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/trainer/adamw.h"
#include "services/learner/trainer/gradient_norm.h"

// Tolerances: shared/data/golden/README.md, table of section "models".
namespace rollcall::verify {
namespace {

using Json = nlohmann::json;

constexpr double kLossTolerance = 1e-5;
constexpr double kGradientNorm = 1e-4;    // relative: l2 of each tensor, norm of all
constexpr double kGradientEntry = 1e-3;   // relative, beyond kGradientFloor
constexpr double kGradientFloor = 1e-6;   // absolute
constexpr double kStepLoss = 1e-4;        // absolute
constexpr double kStepNorm = 1e-4;        // relative
constexpr double kParameterNorm = 1e-5;   // relative
constexpr double kParameterEntry = 2e-5;  // absolute
// Adam divides a gradient by its own size: an entry whose gradient is at noise level may take its
// whole step, at most lr, in another direction.
constexpr int kStrayEntries = 3;

// Sum over sequences of -log p(next token), divided by the number of predicted tokens;
// differentiable.
absl::StatusOr<at::Tensor> TokenMeanLoss(ModelRunner& runner,
                                         const std::vector<at::Tensor>& sequences) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden,
                            runner.Hidden(ForwardPath::kPacked, sequences));
  at::Tensor sum;
  int64_t predicted = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    ROLLCALL_ASSIGN_OR_RETURN(const ModelRunner::Scores scores,
                              runner.Score(hidden[i], sequences[i], 1.0));
    sum = sum.defined() ? sum.add(scores.logprobs.sum()) : scores.logprobs.sum();
    predicted += sequences[i].size(0) - 1;
  }
  return sum.neg().div(static_cast<double>(predicted));
}

// Leaves fresh gradients in the parameters and returns the loss.
absl::StatusOr<double> LossAndGradients(ModelRunner& runner,
                                        const std::vector<at::Tensor>& sequences) {
  runner.decoder().ZeroGrad();
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor loss, TokenMeanLoss(runner, sequences));
  loss.backward();
  return loss.item<double>();
}

std::vector<at::Tensor> Gradients(const std::vector<tensor::NamedTensor>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const tensor::NamedTensor& parameter : parameters) {
    gradients.push_back(parameter.tensor.grad());
  }
  return gradients;
}

// The largest relative error, and the tensor that has it.
struct Worst {
  double error = 0;
  std::string tensor;

  void Update(double other, const std::string& name) {
    if (!(other > error)) return;
    error = other;
    tensor = name;
  }
  std::string Note(const std::string& unit) const {
    return tensor.empty() ? unit : absl::StrCat(unit, ", ", tensor);
  }
};

// Of gradients against golden summaries and full tensors.
struct GradientErrors {
  Worst l2, entries, full;
  bool has_full = false;
};

absl::Status CompareGradient(const tensor::NamedTensor& parameter, const Json& expected,
                             const GoldenTensors& tensors, GradientErrors& errors) {
  const at::Tensor gradient = parameter.tensor.grad();
  ROLLCALL_ASSIGN_OR_RETURN(const TensorSummary golden, SummaryFromJson(expected));
  ROLLCALL_ASSIGN_OR_RETURN(const TensorSummary ours, Summarize(gradient, golden.indices));
  errors.l2.Update(RelativeDifference(ours.l2, golden.l2), parameter.name);
  for (size_t i = 0; i < golden.values.size(); ++i) {
    errors.entries.Update(RelativeBeyond(ours.values[i], golden.values[i], kGradientFloor),
                          parameter.name);
  }
  const auto full = tensors.find("grad." + parameter.name);
  if (full == tensors.end()) return absl::OkStatus();
  errors.has_full = true;
  if (full->second.sizes() != gradient.sizes()) {
    return absl::InvalidArgumentError("the recorded gradient has another shape");
  }
  const at::Tensor a = gradient.cpu().to(at::kDouble).contiguous();
  const at::Tensor b = full->second.to(at::kDouble).contiguous();
  for (int64_t i = 0; i < a.numel(); ++i) {
    errors.full.Update(RelativeBeyond(a.const_data_ptr<double>()[i], b.const_data_ptr<double>()[i],
                                      kGradientFloor),
                       parameter.name);
  }
  return absl::OkStatus();
}

absl::Status CompareGradients(ModelRunner& runner, const Json& expected,
                              const GoldenTensors& tensors, Report& report) {
  const auto& parameters = runner.decoder().parameters();
  const Json summaries = expected.value("grads", Json::object());
  GradientErrors errors;
  for (const tensor::NamedTensor& parameter : parameters) {
    ROLLCALL_RETURN_IF_ERROR(Annotate(
        CompareGradient(parameter, summaries.value(parameter.name, Json()), tensors, errors),
        absl::StrCat("grads: ", parameter.name)));
  }
  const std::string beyond = absl::StrCat("relative beyond ", kGradientFloor);
  report.Compare("gradient l2", errors.l2.error, kGradientNorm, errors.l2.Note("relative"));
  report.Compare("gradient entries", errors.entries.error, kGradientEntry,
                 errors.entries.Note(beyond));
  if (errors.has_full) {
    report.Compare("gradient, every entry", errors.full.error, kGradientEntry,
                   errors.full.Note(beyond));
  }
  if (const auto norm = expected.find("grad_norm"); norm != expected.end() && norm->is_number()) {
    report.Compare(
        "gradient norm",
        RelativeDifference(learner::GlobalNorm(Gradients(parameters)), norm->get<double>()),
        kGradientNorm, "relative");
  }
  return absl::OkStatus();
}

struct StepSettings {
  v1::OptimizerSection optimizer;
  double lr = 0;
  double clip = 0;  // of the gradient norm
};

absl::StatusOr<StepSettings> SettingsFromJson(const Json& adamw) {
  const Json settings = adamw.value("settings", Json::object());
  const Json betas = settings.value("betas", Json());
  const auto number = [&](const char* name) { return settings.value(name, std::nan("")); };
  StepSettings result{
      .optimizer = {}, .lr = number("lr"), .clip = adamw.value("grad_clip", std::nan(""))};
  result.optimizer.set_epsilon(number("eps"));
  result.optimizer.set_weight_decay(number("weight_decay"));
  const bool complete = betas.is_array() && betas.size() == 2 && !std::isnan(result.lr) &&
                        !std::isnan(result.clip) && !std::isnan(number("eps")) &&
                        !std::isnan(number("weight_decay"));
  if (!complete) return absl::InvalidArgumentError("adamw: a setting is missing");
  result.optimizer.set_beta1(betas[0].get<double>());
  result.optimizer.set_beta2(betas[1].get<double>());
  return result;
}

absl::Status CompareParameters(ModelRunner& runner, const Json& summaries, Report& report) {
  double l2 = 0;
  std::vector<double> entries;
  for (const tensor::NamedTensor& parameter : runner.decoder().parameters()) {
    const std::string name = absl::StrCat("params_after: ", parameter.name);
    ROLLCALL_ASSIGN_OR_RETURN(
        const TensorSummary golden,
        Annotate(SummaryFromJson(summaries.value(parameter.name, Json())), name));
    ROLLCALL_ASSIGN_OR_RETURN(const TensorSummary ours,
                              Annotate(Summarize(parameter.tensor, golden.indices), name));
    l2 = std::max(l2, RelativeDifference(ours.l2, golden.l2));
    for (size_t i = 0; i < golden.values.size(); ++i) {
      entries.push_back(AbsoluteDifference(ours.values[i], golden.values[i]));
    }
  }
  report.Compare("params_after l2", l2, kParameterNorm, "relative");
  std::sort(entries.begin(), entries.end());
  const auto stray =
      entries.end() - std::upper_bound(entries.begin(), entries.end(), kParameterEntry);
  const size_t kept = entries.size() - std::min<size_t>(entries.size(), kStrayEntries);
  report.Compare("params_after entries", kept == 0 ? 0 : entries[kept - 1], kParameterEntry,
                 stray == 0 ? ""
                            : absl::StrCat(stray, " of ", entries.size(), " beyond; ",
                                           kStrayEntries, " allowed"));
  return absl::OkStatus();
}

absl::Status ReplaySteps(ModelRunner& runner, const std::vector<at::Tensor>& sequences,
                         const Json& adamw, Report& report) {
  ROLLCALL_ASSIGN_OR_RETURN(const StepSettings settings, SettingsFromJson(adamw));
  const auto& parameters = runner.decoder().parameters();
  learner::AdamW optimizer(parameters, settings.optimizer);
  double losses = 0, norms = 0;
  const Json steps = adamw.value("steps", Json::array());
  if (steps.empty()) return absl::InvalidArgumentError("adamw: no steps");
  for (const Json& step : steps) {
    ROLLCALL_ASSIGN_OR_RETURN(const double loss, LossAndGradients(runner, sequences));
    const std::vector<at::Tensor> gradients = Gradients(parameters);
    const double norm = learner::GlobalNorm(gradients);
    const double expected_loss = step.value("loss_before", std::nan(""));
    const double expected_norm = step.value("grad_norm_before_clip", std::nan(""));
    losses = std::max(losses, AbsoluteDifference(loss, expected_loss));
    norms = std::max(norms, RelativeDifference(norm, expected_norm));
    learner::ClipToNorm(gradients, norm, settings.clip);
    optimizer.Update(gradients, settings.lr);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor after, TokenMeanLoss(runner, sequences));
  losses = std::max(
      losses, AbsoluteDifference(after.item<double>(), adamw.value("loss_after", std::nan(""))));
  report.Compare(absl::StrCat("AdamW losses, ", steps.size(), " steps"), losses, kStepLoss);
  report.Compare("AdamW gradient norms", norms, kStepNorm, "relative");
  return CompareParameters(runner, adamw.value("params_after", Json::object()), report);
}

}  // namespace

absl::Status ReplayTraining(ModelRunner& runner, const std::vector<at::Tensor>& sequences,
                            const Json& expected, const GoldenTensors& tensors, Report& report) {
  runner.decoder().SetRequiresGrad(true);
  ROLLCALL_ASSIGN_OR_RETURN(const double loss, LossAndGradients(runner, sequences));
  report.Compare("token_mean_ce, with gradients",
                 AbsoluteDifference(loss, expected.value("token_mean_ce", std::nan(""))),
                 kLossTolerance);
  if (!expected.value("grad_norm", Json()).is_number()) {
    return absl::InvalidArgumentError("no grad_norm");
  }
  ROLLCALL_RETURN_IF_ERROR(CompareGradients(runner, expected, tensors, report));
  return ReplaySteps(runner, sequences, expected.value("adamw", Json::object()), report);
}

absl::Status CompareValueGradients(ModelRunner& runner, const std::vector<at::Tensor>& sequences,
                                   const Json& expected, const GoldenTensors& tensors,
                                   Report& report) {
  runner.decoder().SetRequiresGrad(true);
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden,
                            runner.Hidden(ForwardPath::kPacked, sequences));
  at::Tensor sum;
  for (size_t i = 0; i < sequences.size(); ++i) {
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor cotangent,
                              Golden(tensors, absl::StrCat("seq", i, ".cotangent")));
    const at::Tensor part =
        runner.Values(hidden[i]).mul(cotangent.to(runner.decoder().device())).sum();
    sum = sum.defined() ? sum.add(part) : part;
  }
  sum.backward();
  return CompareGradients(runner, expected, tensors, report);
}

}  // namespace rollcall::verify
