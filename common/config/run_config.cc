#include "common/config/run_config.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/config/algorithm_presets.h"
#include "common/config/field_rules.h"
#include "common/config/preference_rules.h"
#include "common/config/yaml.h"

namespace rollcall::config {
namespace {

// Samples of a step are indexed and counted in 24 bits at their narrowest (identity.proto,
// RandomKey).
constexpr uint64_t kMaxSamplesPerStep = 1u << 24;

class Violations {
 public:
  template <typename... Parts>
  void Add(std::string field, const Parts&... parts) {
    list_.push_back({std::move(field), absl::StrCat(parts...)});
  }
  std::vector<Violation> Take() { return std::move(list_); }

 private:
  std::vector<Violation> list_;
};

bool IsMetricName(const std::string& name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

void CheckAddress(const std::string& field, const std::string& address, Violations* found) {
  const bool is_unix = address.rfind("unix:", 0) == 0 && address.size() > 5;
  const size_t colon = address.find_last_of(':');
  const bool is_tcp = colon != std::string::npos && colon + 1 < address.size() &&
                      address.find_first_not_of("0123456789", colon + 1) == std::string::npos;
  if (!is_unix && !is_tcp) {
    found->Add(field, "expected host:port or unix:/path, got \"", address, "\"");
  }
}

// `calls`: whether the reader is the process that calls the model's server.
void CheckRewardModel(const std::string& path, const v1::RewardModelVerifier& model, bool calls,
                      Violations* found) {
  CheckAddress(path + ".listen", model.listen(), found);
  if (!model.address().empty()) {
    CheckAddress(path + ".address", model.address(), found);
  } else if (calls) {
    found->Add(path + ".address",
               "is needed where the reward service runs alone: where rollcall-reward-model serves "
               "this model");
  }
}

void CheckVerifier(const std::string& path, const v1::VerifierConfig& verifier, Role role,
                   Violations* found) {
  if (!IsMetricName(verifier.name())) {
    found->Add(path + ".name", "only a to z, 0 to 9 and _ are allowed, got \"", verifier.name(),
               "\"");
  }
  switch (verifier.kind_case()) {
    case v1::VerifierConfig::kRemote:
      CheckAddress(path + ".remote.address", verifier.remote().address(), found);
      break;
    case v1::VerifierConfig::kRewardModel:
      CheckRewardModel(path + ".reward_model", verifier.reward_model(), role == Role::kReward,
                       found);
      break;
    case v1::VerifierConfig::kLength: {
      const v1::LengthRule& rule = verifier.length();
      if (rule.max_tokens() != 0 && rule.min_tokens() > rule.max_tokens()) {
        found->Add(path + ".length.min_tokens", "must be at most max_tokens (", rule.max_tokens(),
                   "), got ", rule.min_tokens());
      }
      break;
    }
    case v1::VerifierConfig::kContains:
      if (verifier.contains().column().empty() && verifier.contains().texts().empty()) {
        found->Add(path + ".contains", "needs a column or texts to look for");
      }
      break;
    case v1::VerifierConfig::KIND_NOT_SET:
      found->Add(path,
                 "needs one of exact_match, numeric_answer, regex, length, contains, remote, "
                 "reward_model");
      break;
    default:
      break;
  }
}

void CheckReward(const v1::RunConfig& config, Role role, Violations* found) {
  const v1::RewardSection& reward = config.reward();
  CheckAddress("reward.listen", reward.listen(), found);
  if (reward.verifiers().empty()) {
    found->Add("reward.verifiers", "needs at least one verifier: without one there is no reward");
    return;
  }
  std::map<std::string, int> first_of_name;
  bool any_effect = false;
  for (int i = 0; i < reward.verifiers_size(); ++i) {
    const v1::VerifierConfig& verifier = reward.verifiers(i);
    const std::string path = absl::StrCat("reward.verifiers[", i, "]");
    CheckVerifier(path, verifier, role, found);
    const auto [first, is_new] = first_of_name.emplace(verifier.name(), i);
    if (!is_new) {
      found->Add(path + ".name", "\"", verifier.name(), "\" is also the name of reward.verifiers[",
                 first->second, "]");
    }
    any_effect = any_effect || verifier.weight() != 0 || verifier.has_gate();
  }
  // Distillation learns without a reward; what verifiers say may be for the record only.
  if (!any_effect && config.algorithm().preset() != v1::ALGORITHM_PRESET_DISTILLATION) {
    found->Add("reward.verifiers", "every weight is 0 and none has a gate: the reward would be 0");
  }
}

void CheckGenerator(const v1::RunConfig& config, Violations* found) {
  CheckAddress("generator.listen", config.generator().listen(), found);
  const uint32_t group = config.algorithm().samples_per_prompt();
  if (config.generator().max_waiting_samples() < group) {
    found->Add("generator.max_waiting_samples",
               "must hold a group of algorithm.samples_per_prompt (", group, "), got ",
               config.generator().max_waiting_samples());
  }
  for (int i = 0; i < config.generator().addresses_size(); ++i) {
    CheckAddress(absl::StrCat("generator.addresses[", i, "]"), config.generator().addresses(i),
                 found);
  }
}

void CheckReference(const v1::RunConfig& config, Violations* found) {
  CheckAddress("reference.listen", config.reference().listen(), found);
  for (int i = 0; i < config.reference().addresses_size(); ++i) {
    CheckAddress(absl::StrCat("reference.addresses[", i, "]"), config.reference().addresses(i),
                 found);
  }
}

void CheckAdapter(const v1::RunConfig& config, Violations* found) {
  const v1::LoraSection& lora = config.model().lora();
  if (lora.dropout() != 0) {
    found->Add("model.lora.dropout", "must be 0: adapters are trained without dropout, got ",
               lora.dropout());
  }
  if (AsksAdapter(config.model())) {
    const std::string& reference = config.reference().model_path();
    if (config.algorithm().reference_refresh_steps() > 0 && !reference.empty() &&
        reference != config.model().path()) {
      found->Add("reference.model_path",
                 "must be model.path or empty where an adapter is trained and "
                 "algorithm.reference_refresh_steps takes the policy as the next reference: it "
                 "takes over the adapter alone");
    }
    return;
  }
  if (!lora.target_modules().empty() || lora.rslora() || lora.merge_on_export()) {
    found->Add("model.lora.r", "must be at least 1 (or model.lora.path given) for an adapter: ",
               "other fields of model.lora are set");
  }
}

void CheckReinforcement(const v1::RunConfig& config, Violations* found) {
  const v1::AlgorithmSection& algorithm = config.algorithm();
  const v1::SamplingSection& sampling = config.sampling();
  const uint64_t prompts = config.learner().prompts_per_step();
  const uint64_t samples = algorithm.samples_per_prompt();
  if (sampling.temperature() == 0) {
    found->Add("sampling.temperature",
               "must be > 0 with stage rl: greedy samples carry no ratio and do not explore");
  }
  if (sampling.min_tokens() > sampling.max_tokens()) {
    found->Add("sampling.min_tokens", "must be at most sampling.max_tokens (",
               sampling.max_tokens(), "), got ", sampling.min_tokens());
  }
  for (Violation& violation : FindAlgorithmViolations(config)) {
    found->Add(std::move(violation.field), violation.message);
  }
  if (algorithm.min_valid_samples() > std::max<uint64_t>(samples, 2)) {
    found->Add("algorithm.min_valid_samples", "must be at most algorithm.samples_per_prompt (",
               samples, "), got ", algorithm.min_valid_samples());
  }
  if (prompts % std::max(algorithm.mini_batches(), 1u) != 0) {
    found->Add("learner.prompts_per_step", "must be a multiple of algorithm.mini_batches (",
               algorithm.mini_batches(), "), got ", prompts);
  }
  if (prompts * samples > kMaxSamplesPerStep) {
    found->Add("learner.prompts_per_step", "times algorithm.samples_per_prompt must be at most ",
               kMaxSamplesPerStep, ", got ", prompts * samples);
  }
  CheckGenerator(config, found);
  if (NeedsRewardService(config)) CheckReward(config, Role::kRun, found);
  if (NeedsReferenceService(config)) CheckReference(config, found);
}

// Stage rlaif starts everything itself and hands the training stages what its steps made.
void CheckRlaif(const v1::RunConfig& config, Role role, Violations* found) {
  const v1::RlaifSection& rlaif = config.rlaif();
  if (role == Role::kLearner) {
    found->Add("stage", "rlaif is a chain of stages: `rollcall train` runs it");
  }
  if (rlaif.constitution().empty()) {
    found->Add("rlaif.constitution", "is needed with stage rlaif: a YAML file of principles");
  }
  if (config.sampling().temperature() == 0) {
    found->Add("sampling.temperature",
               "must be > 0 with stage rlaif: greedy answers to a prompt are all the same");
  }
  for (const auto& [path, sampling] :
       {std::pair("sampling", &config.sampling()),
        std::pair("rlaif.feedback_sampling", &rlaif.feedback_sampling())}) {
    if (sampling->min_tokens() > sampling->max_tokens()) {
      found->Add(absl::StrCat(path, ".min_tokens"), "must be at most max_tokens (",
                 sampling->max_tokens(), "), got ", sampling->min_tokens());
    }
  }
  for (int i = 0; i < config.data().train_size(); ++i) {
    if (!config.data().train(i).has_weight()) continue;
    found->Add(absl::StrCat("data.train[", i, "].weight"),
               "has no meaning with stage rlaif, which answers every prompt once");
  }
  if (!config.generator().addresses().empty()) {
    found->Add("generator.addresses",
               "must be empty with stage rlaif, which starts a generator "
               "for each of its models");
  }
  if (!config.reference().model_path().empty()) {
    found->Add("reference.model_path",
               "must be empty with stage rlaif: the reference is the fine-tuned policy");
  }
  if (config.model().lora().r() > 0 || !config.model().lora().path().empty()) {
    found->Add("model.lora",
               "must be unset with stage rlaif: each stage of the chain starts from the "
               "whole weights of the one before");
  }
  if (config.evaluation().every_steps() > 0) {
    found->Add("evaluation.every_steps",
               "must be 0 with stage rlaif, which evaluates before the first step, after the "
               "fine-tuning and at the end");
  }
  if (!config.data().evaluation().empty()) {
    CheckReward(config, Role::kRun, found);
  } else if (!config.reward().verifiers().empty()) {
    found->Add("reward.verifiers",
               "score held-out prompts alone with stage rlaif: needs data.evaluation");
  }
}

void CheckRun(const v1::RunConfig& config, Role role, Violations* found) {
  if (config.name().empty() || config.name().find('/') != std::string::npos ||
      config.name()[0] == '.') {
    found->Add("name",
               "names a folder: it may not be empty, start with a dot or hold a slash, got \"",
               config.name(), "\"");
  }
  CheckAddress("learner.listen", config.learner().listen(), found);
  CheckAdapter(config, found);
  const bool trains = config.stage() != v1::STAGE_EVAL;
  if (trains && config.data().train().empty()) {
    found->Add("data.train", "needs at least one file to train on");
  }
  if (config.data().evaluation().empty() && !trains) {
    found->Add("data.evaluation", "needs at least one file to evaluate on");
  }
  if (config.data().evaluation().empty() && trains && config.evaluation().every_steps() > 0) {
    found->Add("evaluation.every_steps", "needs data.evaluation: there is nothing to evaluate on");
  }
  if (!trains) {
    CheckGenerator(config, found);
    CheckReward(config, Role::kRun, found);
  }
  if (config.stage() == v1::STAGE_RL) CheckReinforcement(config, found);
  if (config.stage() == v1::STAGE_RLAIF) CheckRlaif(config, role, found);
  if (config.stage() != v1::STAGE_RL && NeedsReferenceService(config)) {
    CheckReference(config, found);
  }
  for (Violation& violation : FindPreferenceViolations(config)) {
    found->Add(std::move(violation.field), violation.message);
  }
}

void CheckSecurity(const v1::SecuritySection& security, Violations* found) {
  const bool all = !security.certificate().empty() && !security.private_key().empty() &&
                   !security.trust_roots().empty();
  const bool none = security.certificate().empty() && security.private_key().empty() &&
                    security.trust_roots().empty();
  if (!all && !none) {
    found->Add("security", "certificate, private_key and trust_roots are needed together");
  }
  if (!security.admin_listen().empty()) {
    CheckAddress("security.admin_listen", security.admin_listen(), found);
  }
  for (int i = 0; i < security.allow_size(); ++i) {
    const std::string& method = security.allow(i).method();
    const size_t slash = method.find('/');
    if (slash == std::string::npos || slash == 0 || slash + 1 == method.size()) {
      found->Add(absl::StrCat("security.allow[", i, "].method"),
                 "expected package.Service/Method or package.Service/*, got \"", method, "\"");
    }
  }
}

// Top-level sections whose required fields the role needs; empty: all.
std::vector<std::string_view> RequiredSections(Role role) {
  switch (role) {
    case Role::kRun:
    case Role::kLearner:
      return {};
    case Role::kGenerator:
      return {"model", "generator", "security"};
    case Role::kReward:
    case Role::kRewardModel:
      return {"reward", "security"};
    case Role::kReference:
      return {"model", "reference", "security"};
  }
  return {};
}

// A preset, and the rest of the run, fill the cells that neither the file nor a --set wrote; from
// then on every cell is explicit, also in the effective configuration.
absl::Status FillCells(const Origins& origins, v1::RunConfig* config) {
  v1::AlgorithmSection* algorithm = config->mutable_algorithm();
  std::vector<PresetCell> cells = RunCells(*config);
  const std::vector<PresetCell> row = PresetCells(algorithm->preset());
  cells.insert(cells.end(), row.begin(), row.end());
  for (const PresetCell& cell : cells) {
    const std::string name(cell.field);
    if (origins.count("algorithm." + name) != 0) continue;
    const auto* field = algorithm->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr || !ParseScalar(std::string(cell.value), *field, algorithm)) {
      return absl::InternalError(absl::StrCat("preset ", PresetName(algorithm->preset()), ": ",
                                              name, " cannot be ", std::string(cell.value)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Violation> FindViolations(const v1::RunConfig& config, Role role) {
  Violations found;
  CheckSecurity(config.security(), &found);
  switch (role) {
    case Role::kRun:
    case Role::kLearner:
      CheckRun(config, role, &found);
      break;
    case Role::kGenerator:
      CheckGenerator(config, &found);
      break;
    case Role::kReward:
    case Role::kRewardModel:
      CheckReward(config, role, &found);
      break;
    case Role::kReference:
      CheckReference(config, &found);
      break;
  }
  return found.Take();
}

std::string UncorrectedSampling(const v1::SamplingSection& sampling) {
  std::vector<std::string> fields;
  if (sampling.top_k() > 0) fields.push_back("sampling.top_k");
  if (sampling.top_p() < 1) fields.push_back("sampling.top_p");
  if (sampling.min_p() > 0) fields.push_back("sampling.min_p");
  if (sampling.repetition_penalty() != 1) fields.push_back("sampling.repetition_penalty");
  if (sampling.presence_penalty() != 0) fields.push_back("sampling.presence_penalty");
  if (sampling.frequency_penalty() != 0) fields.push_back("sampling.frequency_penalty");
  if (sampling.no_repeat_ngram_size() > 0) fields.push_back("sampling.no_repeat_ngram_size");
  return absl::StrJoin(fields, ", ");
}

bool AsksAdapter(const v1::ModelSection& model) {
  return model.lora().r() > 0 || !model.lora().path().empty();
}

std::string RunFolder(const v1::RunConfig& config) {
  return std::filesystem::absolute(std::filesystem::path(config.output_dir()) / config.name())
      .lexically_normal()
      .string();
}

absl::Status ValidateRunConfig(const v1::RunConfig& config, Role role) {
  std::vector<std::string> lines;
  for (const Violation& violation : FindViolations(config, role)) {
    lines.push_back(absl::StrCat(violation.field, ": ", violation.message));
  }
  if (lines.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
}

absl::StatusOr<v1::RunConfig> LoadRunConfig(const std::string& path,
                                            std::span<const std::string> sets, Role role) {
  v1::RunConfig config;
  Origins origins;
  const std::vector<std::string_view> sections = RequiredSections(role);
  const LoadOptions options{.required_in = sections};
  ROLLCALL_RETURN_IF_ERROR(LoadYaml(path, sets, &config, options, &origins));
  // The chain that ends in online learning ends in PPO unless the file says otherwise.
  if (config.stage() == v1::STAGE_RLAIF && !origins.contains("algorithm.preset")) {
    config.mutable_algorithm()->set_preset(v1::ALGORITHM_PRESET_PPO);
  }
  ROLLCALL_RETURN_IF_ERROR(FillCells(origins, &config));
  FillPreferenceCells(origins.count("preference.mean_log_prob") != 0, &config);
  std::vector<std::string> lines;
  for (const Violation& violation : FindViolations(config, role)) {
    const auto origin = origins.find(violation.field);
    lines.push_back(absl::StrCat(origin != origins.end() ? origin->second
                                 : path.empty()          ? "configuration"
                                                         : path,
                                 ": ", violation.field, ": ", violation.message));
  }
  if (!lines.empty()) return absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
  return config;
}

}  // namespace rollcall::config
