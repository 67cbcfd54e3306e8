#include "services/cli/verify/training_replay.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

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

double GradientNorm(const std::vector<tensor::NamedTensor>& parameters) {
  double sum = 0;
  for (const tensor::NamedTensor& parameter : parameters) {
    const double norm = parameter.tensor.grad().to(at::kDouble).norm().item<double>();
    sum += norm * norm;
  }
  return std::sqrt(sum);
}

// Of the largest relative error of entries against golden summaries and full tensors.
struct GradientErrors {
  double l2 = 0, entries = 0, full = 0;
  bool has_full = false;
};

absl::Status CompareGradient(const tensor::NamedTensor& parameter, const Json& expected,
                             const GoldenTensors& tensors, GradientErrors& errors) {
  const at::Tensor gradient = parameter.tensor.grad();
  ROLLCALL_ASSIGN_OR_RETURN(const TensorSummary golden, SummaryFromJson(expected));
  ROLLCALL_ASSIGN_OR_RETURN(const TensorSummary ours, Summarize(gradient, golden.indices));
  errors.l2 = std::max(errors.l2, RelativeDifference(ours.l2, golden.l2));
  for (size_t i = 0; i < golden.values.size(); ++i) {
    errors.entries =
        std::max(errors.entries, RelativeBeyond(ours.values[i], golden.values[i], kGradientFloor));
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
    errors.full =
        std::max(errors.full, RelativeBeyond(a.const_data_ptr<double>()[i],
                                             b.const_data_ptr<double>()[i], kGradientFloor));
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
  report.Compare("gradient l2", errors.l2, kGradientNorm, "relative");
  report.Compare("gradient entries", errors.entries, kGradientEntry, "relative beyond 1e-6");
  if (errors.has_full) {
    report.Compare("gradient, every entry", errors.full, kGradientEntry, "relative beyond 1e-6");
  }
  report.Compare(
      "gradient norm",
      RelativeDifference(GradientNorm(parameters), expected.value("grad_norm", std::nan(""))),
      kGradientNorm, "relative");
  return absl::OkStatus();
}

struct AdamWSettings {
  double lr = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, clip = 0;
};

// Decoupled weight decay, Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, as
// torch.optim.AdamW rounds it.
class AdamW {
 public:
  AdamW(const AdamWSettings& settings, const std::vector<tensor::NamedTensor>& parameters)
      : settings_(settings), parameters_(parameters) {
    for (const tensor::NamedTensor& parameter : parameters) {
      first_.push_back(at::zeros_like(parameter.tensor));
      second_.push_back(at::zeros_like(parameter.tensor));
    }
  }

  // Clips the gradients, whose norm over all parameters is `norm`, and applies them.
  void Step(double norm) {
    const at::NoGradGuard no_grad;
    const double scale = std::min(1.0, settings_.clip / (norm + 1e-6));
    ++step_;
    const double correction1 = 1 - std::pow(settings_.beta1, step_);
    const double correction2 = 1 - std::pow(settings_.beta2, step_);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      at::Tensor parameter = parameters_[i].tensor;
      const at::Tensor gradient = parameter.grad().mul(scale);
      parameter.mul_(1 - settings_.lr * settings_.weight_decay);
      first_[i].lerp_(gradient, 1 - settings_.beta1);
      second_[i].mul_(settings_.beta2).addcmul_(gradient, gradient, 1 - settings_.beta2);
      const at::Tensor denominator =
          second_[i].sqrt().div_(std::sqrt(correction2)).add_(settings_.epsilon);
      parameter.addcdiv_(first_[i], denominator, -settings_.lr / correction1);
    }
  }

 private:
  const AdamWSettings settings_;
  const std::vector<tensor::NamedTensor>& parameters_;
  std::vector<at::Tensor> first_, second_;
  int step_ = 0;
};

absl::StatusOr<AdamWSettings> SettingsFromJson(const Json& adamw) {
  const Json settings = adamw.value("settings", Json::object());
  const auto number = [&](const char* name) { return settings.value(name, std::nan("")); };
  AdamWSettings result{.lr = number("lr"),
                       .beta1 = std::nan(""),
                       .beta2 = std::nan(""),
                       .epsilon = number("eps"),
                       .weight_decay = number("weight_decay"),
                       .clip = adamw.value("grad_clip", std::nan(""))};
  const Json betas = settings.value("betas", Json());
  if (betas.is_array() && betas.size() == 2) {
    result.beta1 = betas[0].get<double>();
    result.beta2 = betas[1].get<double>();
  }
  const double all =
      result.lr + result.beta1 + result.beta2 + result.epsilon + result.weight_decay + result.clip;
  if (std::isnan(all)) return absl::InvalidArgumentError("adamw: a setting is missing");
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
  ROLLCALL_ASSIGN_OR_RETURN(const AdamWSettings settings, SettingsFromJson(adamw));
  AdamW optimizer(settings, runner.decoder().parameters());
  double losses = 0, norms = 0;
  const Json steps = adamw.value("steps", Json::array());
  if (steps.empty()) return absl::InvalidArgumentError("adamw: no steps");
  for (const Json& step : steps) {
    ROLLCALL_ASSIGN_OR_RETURN(const double loss, LossAndGradients(runner, sequences));
    const double norm = GradientNorm(runner.decoder().parameters());
    const double expected_loss = step.value("loss_before", std::nan(""));
    const double expected_norm = step.value("grad_norm_before_clip", std::nan(""));
    losses = std::max(losses, AbsoluteDifference(loss, expected_loss));
    norms = std::max(norms, RelativeDifference(norm, expected_norm));
    optimizer.Step(norm);
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
  ROLLCALL_RETURN_IF_ERROR(CompareGradients(runner, expected, tensors, report));
  return ReplaySteps(runner, sequences, expected.value("adamw", Json::object()), report);
}

}  // namespace rollcall::verify
