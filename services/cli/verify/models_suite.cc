#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"
#include "common/tensor/torch_call.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/path_equality.h"
#include "services/cli/verify/suite.h"
#include "services/cli/verify/training_replay.h"
#include "services/cli/verify/value_models.h"

// Folder format: shared/data/golden/README.md, section "models". Tolerances are those stated there.
namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr double kLogitTolerance = 1e-4;  // logits, log-probs, entropies: absolute
constexpr double kLossTolerance = 1e-5;
constexpr double kTemperatures[] = {1.0, 0.7};
constexpr char kSuffix[] = ".expected.json";

absl::StatusOr<ModelCase> ReadCase(const fs::path& folder, const std::string& name) {
  ModelCase model_case{.name = name, .expected = {}, .tensors = {}, .sequences = {}};
  ROLLCALL_ASSIGN_OR_RETURN(model_case.expected,
                            ReadGoldenJson((folder / (name + kSuffix)).string()));
  ROLLCALL_ASSIGN_OR_RETURN(
      model_case.tensors,
      checkpoint::LoadTensors((folder / (name + ".expected.safetensors")).string()));
  for (int i = 0; model_case.tensors.count(absl::StrCat("seq", i, ".input_ids")) > 0; ++i) {
    model_case.sequences.push_back(model_case.tensors.at(absl::StrCat("seq", i, ".input_ids")));
  }
  if (model_case.sequences.empty()) return absl::InvalidArgumentError("no seq0.input_ids");
  return model_case;
}

std::string Quantity(ForwardPath path, const std::string& what) {
  return absl::StrCat(NameOf(path), ": ", what);
}

// "1.0", "0.7": as the tensors' names have it.
std::string TemperatureName(double temperature) {
  return temperature == 1.0 ? "1.0" : absl::StrCat(temperature);
}

// Logits, log-probs and entropies of every sequence along one path.
absl::Status CompareForward(ModelRunner& runner, const ModelCase& golden, ForwardPath path,
                            Report& report) {
  const at::NoGradGuard no_grad;
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden,
                            runner.Hidden(path, golden.sequences));
  double logits = 0, entropy = 0, mean_ce = 0, ce_sum = 0;
  double logprobs[2] = {0, 0};
  int64_t predicted = 0;
  for (size_t i = 0; i < hidden.size(); ++i) {
    const std::string sequence = absl::StrCat("seq", i);
    const auto worsen = [&](double& worst, const at::Tensor& actual,
                            const std::string& name) -> absl::Status {
      ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor expected,
                                Golden(golden.tensors, absl::StrCat(sequence, ".", name)));
      worst = std::max(worst, LargestDifference(actual, expected));
      return absl::OkStatus();
    };
    ROLLCALL_RETURN_IF_ERROR(worsen(logits, runner.decoder().Logits(hidden[i]), "logits"));
    for (size_t t = 0; t < std::size(kTemperatures); ++t) {
      ROLLCALL_ASSIGN_OR_RETURN(const ModelRunner::Scores scores,
                                runner.Score(hidden[i], golden.sequences[i], kTemperatures[t]));
      ROLLCALL_RETURN_IF_ERROR(
          worsen(logprobs[t], scores.logprobs,
                 absl::StrCat("logprobs_t", TemperatureName(kTemperatures[t]))));
      if (kTemperatures[t] != 1.0) continue;
      ROLLCALL_RETURN_IF_ERROR(worsen(entropy, scores.entropy, "entropy_t1.0"));
      const double sum = -scores.logprobs.to(at::kDouble).sum().item<double>();
      const double expected =
          golden.expected.value(Json::json_pointer("/" + sequence + "/mean_ce"), std::nan(""));
      mean_ce = std::max(mean_ce, AbsoluteDifference(sum / scores.logprobs.size(0), expected));
      ce_sum += sum;
      predicted += scores.logprobs.size(0);
    }
  }
  report.Compare(Quantity(path, "logits"), logits, kLogitTolerance);
  report.Compare(Quantity(path, "logprobs t=1.0"), logprobs[0], kLogitTolerance);
  report.Compare(Quantity(path, "logprobs t=0.7"), logprobs[1], kLogitTolerance);
  report.Compare(Quantity(path, "entropy"), entropy, kLogitTolerance);
  report.Compare(Quantity(path, "mean_ce"), mean_ce, kLossTolerance);
  report.Compare(
      Quantity(path, "token_mean_ce"),
      AbsoluteDifference(ce_sum / predicted, golden.expected.value("token_mean_ce", std::nan(""))),
      kLossTolerance);
  return absl::OkStatus();
}

absl::Status CompareGreedy(ModelRunner& runner, const ModelCase& golden, ForwardPath path,
                           Report& report) {
  std::vector<at::Tensor> expected;
  for (size_t i = 0; i < golden.sequences.size(); ++i) {
    ROLLCALL_ASSIGN_OR_RETURN(expected.emplace_back(),
                              Golden(golden.tensors, absl::StrCat("seq", i, ".greedy")));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> ids,
                            runner.Greedy(path, golden.sequences, expected));
  double unequal = 0;
  for (size_t i = 0; i < ids.size(); ++i) unequal += CountUnequal(ids[i], expected[i]);
  report.Compare(Quantity(path, "greedy ids"), unequal, 0, "ids that differ");
  return absl::OkStatus();
}

absl::Status CompareModel(ModelRunner& runner, const std::string& folder, const ModelCase& golden,
                          Report& report) {
  for (const ForwardPath path : kForwardPaths) {
    ROLLCALL_RETURN_IF_ERROR(CompareForward(runner, golden, path, report));
    ROLLCALL_RETURN_IF_ERROR(CompareGreedy(runner, golden, path, report));
  }
  const auto logprobs = [](ModelRunner& either, const at::Tensor& hidden,
                           const at::Tensor& sequence) -> absl::StatusOr<at::Tensor> {
    ROLLCALL_ASSIGN_OR_RETURN(const auto scores, either.Score(hidden, sequence, 1.0));
    return scores.logprobs;
  };
  ROLLCALL_RETURN_IF_ERROR(
      ComparePaths(runner, folder, golden.sequences, "logprobs", logprobs, report));
  return ReplayTraining(runner, golden.sequences, golden.expected, golden.tensors, report);
}

absl::Status RunCase(const fs::path& folder, const std::string& name, const c10::Device& device,
                     Report& report) {
  ROLLCALL_ASSIGN_OR_RETURN(const ModelCase golden, ReadCase(folder, name));
  const std::string model_folder = (folder / name).string();
  absl::StatusOr<ModelRunner> runner = ModelRunner::Open(model_folder, at::kFloat, device);
  if (absl::IsUnimplemented(runner.status())) {
    report.NotSupported("all", std::string(runner.status().message()));
    return absl::OkStatus();
  }
  ROLLCALL_RETURN_IF_ERROR(runner.status());
  const std::string head = golden.expected.value("head", "causal_lm");
  const bool language = runner->decoder().config().head == model::Head::kLanguageModel;
  if (language != (head == "causal_lm")) {
    return absl::InvalidArgumentError(
        absl::StrCat("head '", head, "' is not what the model's config.json says"));
  }
  return language ? CompareModel(*runner, model_folder, golden, report)
                  : CompareValueModel(*runner, model_folder, golden, report);
}

class ModelsSuite : public Suite {
 public:
  std::string_view name() const override { return "models"; }

  absl::Status Run(const SuiteInput& input, Report& report) const override {
    const fs::path folder = fs::path(input.root) / std::string(name());
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> cases,
                              CaseNames(folder.string(), kSuffix));
    for (const std::string& model_case : cases) {
      report.Begin(name(), model_case);
      const absl::Status status =
          tensor::TorchCall([&] { return RunCase(folder, model_case, input.device, report); });
      if (!status.ok()) report.Fail("case", status.ToString());
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Suite> MakeModelsSuite() { return std::make_unique<ModelsSuite>(); }

}  // namespace rollcall::verify
