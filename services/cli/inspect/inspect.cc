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
  std::string adapter;
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
      .tokens = options.tokens > 0 ? options.tokens : description.config->max_position_embeddings,
      .adapter = description.adapter};
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

std::string HeadName(model::Head head) {
  switch (head) {
    case model::Head::kSequenceScore:
      return "a reward for each sequence";
    case model::Head::kTokenScore:
      return "a value for each token";
    case model::Head::kLanguageModel:
      break;
  }
  return "language model";
}

int64_t LayersWith(const model::ModelConfig& config, bool model::LayerOptions::*option) {
  return std::count_if(config.layers.begin(), config.layers.end(),
                       [option](const model::LayerOptions& layer) { return layer.*option; });
}

std::string Shapes(const model::ModelConfig& config) {
  std::string text = absl::StrCat(config.num_layers, " layers, hidden ", config.hidden_size, ", ",
                                  config.num_heads, " heads of ", config.head_dim, " over ",
                                  config.num_kv_heads, " key/value heads");
  const int64_t mixtures = LayersWith(config, &model::LayerOptions::experts);
  if (mixtures < config.num_layers) absl::StrAppend(&text, ", MLP ", config.intermediate_size);
  if (mixtures > 0) {
    absl::StrAppend(&text, "; ", mixtures, " layers with ", config.num_experts, " experts of ",
                    config.expert_intermediate_size, ", ", config.experts_per_token, " a token");
  }
  return text;
}

std::string Attention(const model::ModelConfig& config) {
  const int64_t sliding = LayersWith(config, &model::LayerOptions::sliding);
  if (sliding == 0) return "every layer sees all tokens";
  return absl::StrCat(sliding, " of ", config.num_layers, " layers see the last ",
                      Grouped(config.sliding_window), " tokens");
}

std::string RopeName(const model::Rope& rope) {
  static constexpr const char* kNames[] = {"default", "linear", "llama3",
                                           "dynamic", "yarn",   "longrope"};
  std::string text = absl::StrCat(kNames[static_cast<int>(rope.scaling.type)], ", theta ",
                                  Grouped(static_cast<int64_t>(rope.theta)));
  if (rope.scaling.factor != 1) absl::StrAppend(&text, ", factor ", rope.scaling.factor);
  if (rope.scaling.original_max_position_embeddings > 0) {
    absl::StrAppend(&text, ", trained on ", Grouped(rope.scaling.original_max_position_embeddings),
                    " tokens");
  }
  return text;
}

std::string Ropes(const model::ModelConfig& config) {
  std::string text = RopeName(config.rope);
  if (config.sliding_rope) {
    absl::StrAppend(&text, "; in sliding layers ", RopeName(*config.sliding_rope));
  }
  int64_t still = 0;
  for (const model::LayerOptions& layer : config.layers) still += layer.rotates ? 0 : 1;
  if (still > 0) absl::StrAppend(&text, "; none in ", still, " layers");
  return text;
}

std::string Context(const model::ModelConfig& config) {
  std::string text = absl::StrCat(Grouped(config.max_position_embeddings), " tokens");
  if (config.longest_context > config.max_position_embeddings) {
    absl::StrAppend(&text, "; up to ", Grouped(config.longest_context),
                    " with model.context_tokens, which changes the rope");
  }
  return text;
}

void AppendConfig(std::string& text, const model::ModelConfig& config) {
  AppendLine(text, "head", HeadName(config.head));
  AppendLine(text, "shapes", Shapes(config));
  AppendLine(text, "attention", Attention(config));
  AppendLine(text, "rope", Ropes(config));
  std::string output;
  if (config.head == model::Head::kLanguageModel) {
    output = config.tie_word_embeddings ? ", head tied to the embedding" : ", head of its own";
  }
  AppendLine(text, "vocabulary", absl::StrCat(Grouped(config.vocab_size), output));
  AppendLine(text, "context", Context(config));
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
  if (description.adapter) {
    const model::LoraConfig& adapter = *description.adapter;
    const int64_t elements = AdapterElements(*description.config, adapter);
    AppendLine(text, "adapter",
               absl::StrCat(options.adapter, ": rank ", adapter.r, ", alpha ", adapter.alpha,
                            adapter.rslora ? " over the root of the rank, " : ", ",
                            absl::StrJoin(adapter.target_modules, " "), "; ", Grouped(elements),
                            " parameters in ", description.adapter_tensors, " tensors"));
  }
  AppendLine(text, "tokenizer",
             description.tokenizer_vocabulary
                 ? absl::StrCat(Grouped(*description.tokenizer_vocabulary), " ids")
                 : absl::StrCat("none: ", description.tokenizer_problem));
  AppendLine(
      text, "end of text",
      description.eos_token_ids.empty() ? "no id" : absl::StrJoin(description.eos_token_ids, ", "));
  AppendLine(text, "chat template",
             description.chat_templates.empty() ? "none"
                                                : absl::StrJoin(description.chat_templates, ", "));
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
               {"chat_templates", description.chat_templates}};
  if (description.adapter) {
    json["adapter"] = {{"folder", options.adapter},
                       {"r", description.adapter->r},
                       {"alpha", description.adapter->alpha},
                       {"rslora", description.adapter->rslora},
                       {"target_modules", description.adapter->target_modules},
                       {"tensors", description.adapter_tensors},
                       {"parameters", AdapterElements(*description.config, *description.adapter)}};
  }
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
                      {"experts", config.num_experts},
                      {"experts_per_token", config.experts_per_token},
                      {"expert_intermediate", config.expert_intermediate_size},
                      {"sliding_window", config.sliding_window},
                      {"vocabulary", config.vocab_size},
                      {"tied", config.tie_word_embeddings},
                      {"context", config.max_position_embeddings},
                      {"longest_context", config.longest_context}};
    json["head"] = HeadName(config.head);
    json["rope"] = Ropes(config);
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
  app.add_option("--adapter", options.adapter, "PEFT folder of a low-rank adapter for the model");
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
    ROLLCALL_ASSIGN_OR_RETURN(ModelDescription description, DescribeModel(options.folder));
    if (!options.adapter.empty()) {
      ROLLCALL_RETURN_IF_ERROR(DescribeAdapter(options.adapter, description));
    }
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
