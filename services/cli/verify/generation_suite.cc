#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/parameters.h"
#include "common/tensor/torch_call.h"
#include "common/text/tokenizer.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/sampling_filters.h"
#include "services/cli/verify/suite.h"

// Folder format: shared/data/golden/README.md, section "generation". `NAME.json` with prompts
// belongs to the checkpoint NAME beside the golden folder.
namespace rollcall::verify {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr double kTolerance = 1e-4;  // log-probs, entropies, logits: absolute

struct Prompt {
  std::string prefix;  // "prompt3."
  at::Tensor ids;
  at::Tensor continuation;
  at::Tensor greedy;
  std::string greedy_text;
};

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const Json& golden, const GoldenTensors& tensors) {
  std::vector<Prompt> prompts;
  for (const Json& entry : golden.value("prompts", Json::array())) {
    Prompt prompt;
    prompt.prefix = absl::StrCat("prompt", prompts.size(), ".");
    ROLLCALL_ASSIGN_OR_RETURN(prompt.ids, Golden(tensors, prompt.prefix + "ids"));
    ROLLCALL_ASSIGN_OR_RETURN(prompt.continuation, Golden(tensors, prompt.prefix + "continuation"));
    ROLLCALL_ASSIGN_OR_RETURN(prompt.greedy, Golden(tensors, prompt.prefix + "greedy"));
    prompt.greedy_text = entry.value("greedy_text", "");
    prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) return absl::InvalidArgumentError("no prompts");
  return prompts;
}

// Scores of the recorded continuations, and the logits after their last token.
absl::Status CompareScores(ModelRunner& runner, const std::vector<Prompt>& prompts,
                           const GoldenTensors& tensors, ForwardPath path, Report& report) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> sequences;
  for (const Prompt& prompt : prompts)
    sequences.push_back(at::cat({prompt.ids, prompt.continuation}));
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> hidden, runner.Hidden(path, sequences));
  double warm = 0, cool = 0, entropy = 0, logits = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const int64_t first =
        prompts[i].ids.size(0) - 1;  // the row that predicts the continuation's first token
    const int64_t count = prompts[i].continuation.size(0);
    const auto worsen = [&](double& worst, const at::Tensor& actual,
                            const std::string& name) -> absl::Status {
      ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor expected,
                                Golden(tensors, prompts[i].prefix + name));
      worst = std::max(worst, LargestDifference(actual, expected));
      return absl::OkStatus();
    };
    ROLLCALL_ASSIGN_OR_RETURN(const auto at_one, runner.Score(hidden[i], sequences[i], 1.0));
    ROLLCALL_ASSIGN_OR_RETURN(const auto at_seven, runner.Score(hidden[i], sequences[i], 0.7));
    ROLLCALL_RETURN_IF_ERROR(
        worsen(warm, at_one.logprobs.narrow(0, first, count), "logprobs_t1.0"));
    ROLLCALL_RETURN_IF_ERROR(
        worsen(cool, at_seven.logprobs.narrow(0, first, count), "logprobs_t0.7"));
    ROLLCALL_RETURN_IF_ERROR(
        worsen(entropy, at_one.entropy.narrow(0, first, count), "entropy_t1.0"));
    ROLLCALL_RETURN_IF_ERROR(
        worsen(logits, runner.decoder().Logits(hidden[i].narrow(0, first + count, 1)).squeeze(0),
               "last_logits"));
  }
  report.Compare(absl::StrCat(NameOf(path), ": logprobs t=1.0"), warm, kTolerance);
  report.Compare(absl::StrCat(NameOf(path), ": logprobs t=0.7"), cool, kTolerance);
  report.Compare(absl::StrCat(NameOf(path), ": entropy"), entropy, kTolerance);
  report.Compare(absl::StrCat(NameOf(path), ": last logits"), logits, kTolerance);
  return absl::OkStatus();
}

absl::Status CompareGreedy(ModelRunner& runner, const std::string& model_folder,
                           const std::vector<Prompt>& prompts, ForwardPath path, Report& report) {
  std::vector<at::Tensor> starts, greedy;
  for (const Prompt& prompt : prompts) {
    starts.push_back(prompt.ids);
    greedy.push_back(prompt.greedy);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<at::Tensor> ids, runner.Greedy(path, starts, greedy));
  ROLLCALL_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Load(model_folder));
  double unequal_ids = 0, unequal_texts = 0;
  std::string note = "texts that differ";
  for (size_t i = 0; i < prompts.size(); ++i) {
    unequal_ids += CountUnequal(ids[i], prompts[i].greedy);
    const at::Tensor host = ids[i].contiguous();
    const std::vector<uint32_t> tokens(host.const_data_ptr<int64_t>(),
                                       host.const_data_ptr<int64_t>() + host.numel());
    ROLLCALL_ASSIGN_OR_RETURN(const std::string text,
                              tokenizer->Decode(tokens, /*skip_special=*/true));
    if (text == prompts[i].greedy_text) continue;
    if (unequal_texts++ == 0) absl::StrAppend(&note, "; first: prompt ", i);
  }
  report.Compare(absl::StrCat(NameOf(path), ": greedy ids"), unequal_ids, 0, "ids that differ");
  report.Compare(absl::StrCat(NameOf(path), ": greedy text"), unequal_texts, 0, note);
  return absl::OkStatus();
}

absl::Status CompareCheckpoint(const fs::path& root, const std::string& name,
                               const c10::Device& device, Report& report) {
  const std::string stem = (root / "generation" / name).string();
  ROLLCALL_ASSIGN_OR_RETURN(const Json golden, ReadGoldenJson(stem + ".json"));
  ROLLCALL_ASSIGN_OR_RETURN(const GoldenTensors tensors,
                            checkpoint::LoadTensors(stem + ".safetensors"));
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<Prompt> prompts, ReadPrompts(golden, tensors));
  // fs::path drops a trailing slash only through lexically_normal.
  const std::string folder = (fs::absolute(root / ".." / name)).lexically_normal().string();
  if (!fs::exists(folder)) {
    report.NotSupported("all", absl::StrCat(folder, ": the checkpoint is not there"));
    return absl::OkStatus();
  }
  ROLLCALL_ASSIGN_OR_RETURN(ModelRunner runner, ModelRunner::Open(folder, at::kFloat, device));
  for (const ForwardPath path : kForwardPaths) {
    ROLLCALL_RETURN_IF_ERROR(CompareScores(runner, prompts, tensors, path, report));
    ROLLCALL_RETURN_IF_ERROR(CompareGreedy(runner, folder, prompts, path, report));
  }
  return absl::OkStatus();
}

class GenerationSuite : public Suite {
 public:
  std::string_view name() const override { return "generation"; }

  absl::Status Run(const SuiteInput& input, Report& report) const override {
    const fs::path folder = fs::path(input.root) / std::string(name());
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> cases, CaseNames(folder.string()));
    for (const std::string& generation_case : cases) {
      report.Begin(name(), generation_case);
      const absl::Status status = tensor::TorchCall([&] {
        return generation_case == "filters"
                   ? CompareFilters((folder / "filters").string(), report)
                   : CompareCheckpoint(input.root, generation_case, input.device, report);
      });
      if (!status.ok()) report.Fail("case", status.ToString());
    }
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Suite> MakeGenerationSuite() { return std::make_unique<GenerationSuite>(); }

}  // namespace rollcall::verify
