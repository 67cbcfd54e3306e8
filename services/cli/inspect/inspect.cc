#include "services/cli/inspect/inspect.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/shutdown.h"
#include "common/base/status.h"
#include "common/tensor/torch_call.h"
#include "services/cli/inspect/memory_estimate.h"
#include "services/cli/inspect/model_description.h"

namespace rollcall::inspect {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string folder;
  std::string dtype;  // "": as stored
  std::string device = "cpu";
  int64_t tokens = 0;  // 0: the model's context
  bool json = false;
};

// Weights are served and trained in float32 or bfloat16; float16 files are widened.
wire::DType ComputeDType(const std::string& asked, const ModelDescription& description) {
  const std::string name = !asked.empty() ? asked : description.config->dtype;
  return name == "bfloat16" ? wire::DType::kBFloat16 : wire::DType::kFloat32;
}

MemoryAssumptions Assume(const Options& options, const ModelDescription& description) {
  return {
      .dtype = ComputeDType(options.dtype, description),
      .packed_matrices = options.device == "cpu",
      .tokens = options.tokens > 0 ? options.tokens : description.config->max_position_embeddings};
}

void AppendLine(std::string& text, const std::string& name, const std::string& value) {
  absl::StrAppend(&text, absl::StrFormat("  %-16s  %s\n", name, value));
}

std::string DTypes(const ModelDescription& description) {
  std::vector<std::string> parts;
  for (const auto& [dtype, elements] : description.elements_by_dtype) {
    parts.push_back(description.elements_by_dtype.size() == 1
                        ? dtype
                        : absl::StrCat(dtype, " (", Grouped(elements), ")"));
  }
  return absl::StrJoin(parts, ", ");
}

void AppendConfig(std::string& text, const model::ModelConfig& config) {
  AppendLine(text, "shapes",
             absl::StrCat(config.num_layers, " layers, hidden ", config.hidden_size, ", ",
                          config.num_heads, " heads of ", config.head_dim, " over ",
                          config.num_kv_heads, " key/value heads, MLP ", config.intermediate_size));
  AppendLine(text, "vocabulary",
             absl::StrCat(Grouped(config.vocab_size), config.tie_word_embeddings
                                                          ? ", head tied to the embedding"
                                                          : ", head of its own"));
  AppendLine(text, "context", absl::StrCat(Grouped(config.max_position_embeddings), " tokens"));
}

void AppendMemory(std::string& text, const std::string& title, const MemoryEstimate& estimate) {
  absl::StrAppend(&text, title, "\n");
  for (const MemoryItem& item : estimate.items) {
    AppendLine(text, item.name, absl::StrCat(item.arithmetic, " = ", HumanBytes(item.bytes)));
  }
  AppendLine(text, "together",
             absl::StrCat(Grouped(estimate.Total()), " B = ", HumanBytes(estimate.Total())));
}

std::string FormatText(const ModelDescription& description, const Options& options) {
  std::string text = absl::StrCat(description.folder, "\n");
  AppendLine(
      text, "family",
      absl::StrCat(description.family.empty() ? "unknown" : description.family,
                   description.architectures.empty()
                       ? ""
                       : absl::StrCat(" (", absl::StrJoin(description.architectures, ", "), ")")));
  AppendLine(text, "offered",
             description.config ? "yes" : absl::StrCat("no: ", description.unsupported_reason));
  AppendLine(text, "parameters",
             absl::StrCat(Grouped(description.parameters), " in ", description.tensors,
                          " tensors, ", HumanBytes(description.bytes)));
  AppendLine(text, "stored as", DTypes(description));
  if (description.config) AppendConfig(text, *description.config);
  AppendLine(text, "tokenizer",
             description.tokenizer_vocabulary
                 ? absl::StrCat(Grouped(*description.tokenizer_vocabulary), " ids")
                 : absl::StrCat("none: ", description.tokenizer_problem));
  AppendLine(
      text, "end of text",
      description.eos_token_ids.empty() ? "no id" : absl::StrJoin(description.eos_token_ids, ", "));
  AppendLine(text, "chat template", description.has_chat_template ? "yes" : "no");
  if (!description.config) return text;
  const MemoryAssumptions assumptions = Assume(options, description);
  const std::string how =
      absl::StrCat(" (", std::string(wire::Name(assumptions.dtype)), ", ", options.device, ")");
  AppendMemory(text, absl::StrCat("memory to serve", how),
               ServingMemory(*description.config, assumptions));
  AppendMemory(text, absl::StrCat("memory to train", how),
               TrainingMemory(*description.config, assumptions));
  return text;
}

Json ToJson(const MemoryEstimate& estimate) {
  Json items = Json::array();
  for (const MemoryItem& item : estimate.items) {
    items.push_back({{"name", item.name}, {"arithmetic", item.arithmetic}, {"bytes", item.bytes}});
  }
  return {{"items", std::move(items)}, {"bytes", estimate.Total()}};
}

std::string FormatJson(const ModelDescription& description, const Options& options) {
  Json json = {{"folder", description.folder},
               {"family", description.family},
               {"architectures", description.architectures},
               {"offered", description.config.has_value()},
               {"parameters", description.parameters},
               {"tensors", description.tensors},
               {"bytes", description.bytes},
               {"stored_as", description.elements_by_dtype},
               {"eos_token_ids", description.eos_token_ids},
               {"has_chat_template", description.has_chat_template}};
  json["tokenizer_vocabulary"] =
      description.tokenizer_vocabulary ? Json(*description.tokenizer_vocabulary) : Json();
  if (!description.config) {
    json["unsupported_reason"] = description.unsupported_reason;
  } else {
    const model::ModelConfig& config = *description.config;
    json["shapes"] = {{"layers", config.num_layers},
                      {"hidden", config.hidden_size},
                      {"heads", config.num_heads},
                      {"key_value_heads", config.num_kv_heads},
                      {"head_dim", config.head_dim},
                      {"intermediate", config.intermediate_size},
                      {"vocabulary", config.vocab_size},
                      {"tied", config.tie_word_embeddings},
                      {"context", config.max_position_embeddings}};
    const MemoryAssumptions assumptions = Assume(options, description);
    json["memory"] = {{"dtype", std::string(wire::Name(assumptions.dtype))},
                      {"tokens", assumptions.tokens},
                      {"serve", ToJson(ServingMemory(config, assumptions))},
                      {"train", ToJson(TrainingMemory(config, assumptions))}};
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

int RunInspect(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors) {
  Options options;
  CLI::App app("Describe a model folder: family, shapes, parameters, memory to serve and to train",
               "rollcall inspect");
  app.add_option("MODEL", options.folder, "Hugging Face model folder")->required();
  app.add_option("--dtype", options.dtype,
                 "Compute dtype of the estimates; the stored one unless given")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--device", options.device, "Device of the estimates")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option(
         "--tokens", options.tokens,
         "Tokens in the KV cache, and in a training micro-batch; the model's context unless given")
      ->check(CLI::Range(int64_t{1}, int64_t{1'000'000'000}));
  app.add_flag("--json", options.json, "One JSON object instead of the text");
  try {
    // CLI11 takes the arguments from the back.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, errors) == 0 ? kExitClean : kExitUsage;
  }
  const absl::StatusOr<std::string> text = tensor::TorchCall([&]() -> absl::StatusOr<std::string> {
    ROLLCALL_ASSIGN_OR_RETURN(const ModelDescription description, DescribeModel(options.folder));
    return options.json ? FormatJson(description, options) : FormatText(description, options);
  });
  if (!text.ok()) {
    errors << "rollcall inspect: " << text.status().message() << "\n";
    return kExitFailure;
  }
  out << *text;
  return kExitClean;
}

}  // namespace rollcall::inspect
