#include "common/model/peft_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/config_reader.h"

namespace rollcall::model {
namespace {

using Json = nlohmann::json;

// Fields that are read, and fields that say nothing of what the finished adapter computes.
constexpr std::array kKnown = {"peft_type",
                               "r",
                               "lora_alpha",
                               "use_rslora",
                               "bias",
                               "task_type",
                               "target_modules",
                               "modules_to_save",
                               "auto_mapping",
                               "revision",
                               "init_lora_weights",
                               "base_model_name_or_path",
                               "inference_mode",
                               "peft_version",
                               "lora_dropout",
                               "megatron_core",
                               "qalora_group_size"};

bool IsOff(const Json& value) {
  return value.is_null() || value == false || (value.is_string() && value == "") ||
         ((value.is_array() || value.is_object()) && value.empty());
}

void RefuseOthers(ConfigReader& reader) {
  for (const auto& [name, value] : reader.object().items()) {
    const bool known = std::any_of(kKnown.begin(), kKnown.end(),
                                   [&name = name](const char* field) { return name == field; });
    if (!known && !IsOff(value)) {
      reader.Update(UnsupportedError(reader.Name(name.c_str()), value, "adapters without it"));
    }
  }
}

// Ways to start that leave the base model as it is; the others (PiSSA, OLoRA, LoftQ…) put a part of
// it into the adapter, so that the tensors only mean something beside the changed base.
void ReadInitialization(ConfigReader& reader) {
  if (!reader.Has("init_lora_weights")) return;
  const Json how = reader.Get("init_lora_weights");
  if (how.is_boolean() || how == "gaussian" || how == "orthogonal" || how == "eva") return;
  reader.Update(UnsupportedError(reader.Name("init_lora_weights"), how,
                                 R"(true, false, "gaussian", "orthogonal", "eva")"));
}

void ReadTargets(ConfigReader& reader, LoraConfig& lora) {
  const Json targets = reader.Get("target_modules");
  if (targets == "all-linear") return;
  if (targets.is_string()) {
    return reader.Update(UnsupportedError(reader.Name("target_modules"), targets,
                                          "a list of names, or \"all-linear\""));
  }
  const bool strings =
      targets.is_array() && !targets.empty() &&
      std::all_of(targets.begin(), targets.end(), [](const Json& t) { return t.is_string(); });
  if (!strings) return reader.Fail("target_modules", "a list of names of modules");
  for (const Json& target : targets) lora.target_modules.push_back(target.get<std::string>());
}

void ReadWholeModules(ConfigReader& reader, Head head) {
  const Json modules = reader.Get("modules_to_save");
  if (IsOff(modules)) return;
  const auto is_score = [](const Json& name) { return name == "score" || name == "classifier"; };
  const bool score = head != Head::kLanguageModel && modules.is_array() &&
                     std::all_of(modules.begin(), modules.end(), is_score);
  if (score) return;
  reader.Update(UnsupportedError(
      reader.Name("modules_to_save"), modules,
      head == Head::kLanguageModel ? "none" : "the head of a reward or value model, \"score\""));
}

}  // namespace

absl::StatusOr<LoraConfig> ReadPeftConfig(std::string_view json, std::string_view file,
                                          const ModelConfig& model) {
  const Json object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(file), ": expected a JSON object"));
  }
  LoraConfig lora;
  ConfigReader reader(object, absl::StrCat(std::string(file), ": "));
  if (!reader.Has("peft_type")) reader.Fail("peft_type", "\"LORA\"");
  reader.RefuseUnless("peft_type", "LORA");
  reader.Integer("r", true, 1, &lora.r);
  reader.Positive("lora_alpha", true, &lora.alpha);
  reader.Bool("use_rslora", &lora.rslora);
  reader.RefuseUnless("bias", "none");
  reader.Text("base_model_name_or_path", &lora.base_model);
  ReadInitialization(reader);
  ReadTargets(reader, lora);
  ReadWholeModules(reader, model.head);
  RefuseOthers(reader);
  ROLLCALL_RETURN_IF_ERROR(reader.status());
  absl::StatusOr<LoraConfig> resolved = ResolveLora(std::move(lora), model);
  if (!resolved.ok()) return Annotate(resolved.status(), file);
  return resolved;
}

std::string PeftConfigJson(const LoraConfig& lora, Head head) {
  const char* task = head == Head::kLanguageModel   ? "CAUSAL_LM"
                     : head == Head::kSequenceScore ? "SEQ_CLS"
                                                    : "TOKEN_CLS";
  Json json = {{"peft_type", "LORA"},
               {"task_type", task},
               {"r", lora.r},
               {"lora_alpha", lora.alpha},
               {"lora_dropout", 0.0},
               {"use_rslora", lora.rslora},
               {"target_modules", lora.target_modules},
               {"bias", "none"},
               {"fan_in_fan_out", false},
               {"init_lora_weights", true},
               {"inference_mode", true},
               {"modules_to_save", nullptr},
               {"base_model_name_or_path", nullptr}};
  // PEFT's own files have whole numbers here.
  if (lora.alpha == std::floor(lora.alpha)) json["lora_alpha"] = static_cast<int64_t>(lora.alpha);
  if (!lora.base_model.empty()) json["base_model_name_or_path"] = lora.base_model;
  if (head != Head::kLanguageModel) json["modules_to_save"] = {"score"};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string CanonicalAdapterConfig(const LoraConfig& lora) {
  const Json json = {{"peft_type", "LORA"},
                     {"r", lora.r},
                     {"lora_alpha", lora.alpha},
                     {"use_rslora", lora.rslora},
                     {"target_modules", lora.target_modules}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace rollcall::model
