#include "common/model/lora_config.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/model/parameter_list.h"

namespace rollcall::model {
namespace {

constexpr char kPrefix[] = "base_model.model.";

// "model.layers.0.self_attn.q_proj" of its weight.
std::string_view ModuleOf(const ParameterSpec& spec) {
  return std::string_view(spec.name).substr(0, spec.name.rfind('.'));
}

std::string LastPart(std::string_view module) {
  return std::string(module.substr(module.rfind('.') + 1));
}

bool Adaptable(const ParameterSpec& spec) {
  if (spec.bias || spec.expert >= 0) return false;
  switch (spec.part) {
    case Part::kQuery:
    case Part::kKey:
    case Part::kValue:
    case Part::kQueryKeyValue:
    case Part::kOutput:
    case Part::kGate:
    case Part::kUp:
    case Part::kGateUp:
    case Part::kDown:
      return true;
    default:
      return false;
  }
}

bool Names(const std::string& target, const ParameterSpec& spec) {
  const std::string_view module = ModuleOf(spec);
  if (!absl::EndsWith(absl::string_view(module.data(), module.size()), target)) return false;
  return module.size() == target.size() || module[module.size() - target.size() - 1] == '.';
}

bool Targeted(const LoraConfig& lora, const ParameterSpec& spec) {
  return Adaptable(spec) &&
         std::any_of(lora.target_modules.begin(), lora.target_modules.end(),
                     [&](const std::string& target) { return Names(target, spec); });
}

absl::Status CheckTarget(const std::string& target, const std::vector<ParameterSpec>& specs) {
  bool found = false;
  std::set<std::string> offered;
  for (const ParameterSpec& spec : specs) {
    if (spec.bias) continue;
    if (Adaptable(spec)) offered.insert(LastPart(ModuleOf(spec)));
    if (target.empty() || !Names(target, spec)) continue;
    found = true;
    if (Adaptable(spec)) continue;
    return absl::UnimplementedError(absl::StrCat(
        "target_modules: \"", target, "\" names ", std::string(ModuleOf(spec)),
        spec.expert >= 0 ? ", an expert of a mixture" : ", no linear layer of attention or MLP",
        "; adapters are offered of ", absl::StrJoin(offered, ", ")));
  }
  if (found) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("target_modules: \"", target,
                                                 "\" names no matrix of this model; it has ",
                                                 absl::StrJoin(offered, ", ")));
}

// The ends of the names of everything that can be adapted.
absl::StatusOr<std::vector<std::string>> AllTargets(const std::vector<ParameterSpec>& specs) {
  std::set<std::string> names;
  bool experts = false;
  for (const ParameterSpec& spec : specs) {
    if (Adaptable(spec)) names.insert(LastPart(ModuleOf(spec)));
    experts = experts || spec.expert >= 0;
  }
  if (experts) {
    return absl::UnimplementedError(absl::StrCat(
        "target_modules: all linear layers would take in the experts of a mixture, of which there "
        "are no adapters; name the ones to adapt among ",
        absl::StrJoin(names, ", ")));
  }
  return std::vector<std::string>(names.begin(), names.end());
}

}  // namespace

double LoraConfig::Scale() const {
  const auto rank = static_cast<double>(r);
  return alpha / (rslora ? std::sqrt(rank) : rank);
}

bool LoraConfig::SameFunction(const LoraConfig& other) const {
  return r == other.r && alpha == other.alpha && rslora == other.rslora &&
         target_modules == other.target_modules;
}

absl::StatusOr<LoraConfig> ResolveLora(LoraConfig lora, const ModelConfig& config) {
  if (lora.r < 1) {
    return absl::InvalidArgumentError(absl::StrCat("r: expected at least 1, got ", lora.r));
  }
  if (!(lora.alpha > 0) || !std::isfinite(lora.alpha)) {
    return absl::InvalidArgumentError(
        absl::StrCat("alpha: expected a number above 0, got ", lora.alpha));
  }
  const std::vector<ParameterSpec> specs = ParametersOf(config);
  if (lora.target_modules.empty()) {
    auto all = AllTargets(specs);
    if (!all.ok()) return all.status();
    lora.target_modules = *std::move(all);
  }
  for (const std::string& target : lora.target_modules) {
    if (const absl::Status status = CheckTarget(target, specs); !status.ok()) return status;
  }
  std::sort(lora.target_modules.begin(), lora.target_modules.end());
  lora.target_modules.erase(std::unique(lora.target_modules.begin(), lora.target_modules.end()),
                            lora.target_modules.end());
  int64_t full = 0;
  for (const ParameterSpec& spec : specs) {
    if (Targeted(lora, spec)) full = std::max(full, std::min(spec.shape[0], spec.shape[1]));
  }
  if (lora.r <= full) return lora;
  return absl::InvalidArgumentError(
      absl::StrCat("r: expected at most ", full, ", the rank of the largest target, got ", lora.r));
}

std::vector<AdapterParameter> AdapterParametersOf(const ModelConfig& config,
                                                  const LoraConfig& lora) {
  using Role = AdapterParameter::Role;
  std::vector<AdapterParameter> parameters;
  const std::vector<ParameterSpec> specs = ParametersOf(config);
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    if (spec.part == Part::kScore) {
      parameters.push_back({absl::StrCat(kPrefix, spec.name), spec.shape, Role::kWhole, i});
    } else if (Targeted(lora, spec)) {
      const std::string module = absl::StrCat(kPrefix, std::string(ModuleOf(spec)));
      parameters.push_back(
          {absl::StrCat(module, ".lora_A.weight"), {lora.r, spec.shape[1]}, Role::kDown, i});
      parameters.push_back(
          {absl::StrCat(module, ".lora_B.weight"), {spec.shape[0], lora.r}, Role::kUp, i});
    }
  }
  return parameters;
}

}  // namespace rollcall::model
