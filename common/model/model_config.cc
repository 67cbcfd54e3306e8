#include "common/model/model_config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/model/config_reader.h"
#include "common/model/families/family.h"
#include "common/model/kernels/expert_arguments.h"
#include "common/model/parameter_list.h"

namespace rollcall::model {
namespace {

using Json = nlohmann::json;

absl::StatusOr<const Family*> ReadFamily(const ConfigReader& reader) {
  if (!reader.Has("model_type") || !reader.Get("model_type").is_string()) {
    return ExpectedError("model_type", "a string", reader.Get("model_type"));
  }
  const auto model_type = reader.Get("model_type").get<std::string>();
  if (const Family* family = FindFamily(model_type); family != nullptr) return family;
  std::string known;
  for (const Family* family : Families()) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", Json(family->model_type).dump());
  }
  return UnsupportedError("model_type", model_type, known);
}

// One label, by name or by number: transformers counts two where nothing is said.
void RequireOneLabel(ConfigReader& reader) {
  if (reader.Has("num_labels")) return reader.RefuseUnless("num_labels", 1);
  const Json names = reader.Get("id2label");
  if (!names.is_null() && !names.is_object()) return reader.Fail("id2label", "an object");
  const size_t labels = names.is_null() ? 2 : names.size();
  if (labels != 1) reader.Update(UnsupportedError("num_labels", labels, "1"));
}

void ReadHead(ConfigReader& reader, const Family& family, ModelConfig& config) {
  if (!reader.Has("architectures")) return;
  const std::string language = absl::StrCat(family.prefix, "ForCausalLM");
  const std::string sequence = absl::StrCat(family.score_prefix, "ForSequenceClassification");
  const std::string token = absl::StrCat(family.score_prefix, "ForTokenClassification");
  const Json given = reader.Get("architectures");
  if (given == Json::array({language})) return;
  config.head = given == Json::array({sequence}) ? Head::kSequenceScore : Head::kTokenScore;
  if (config.head == Head::kTokenScore && given != Json::array({token})) {
    return reader.Update(UnsupportedError(
        "architectures", given,
        absl::StrCat("[\"", language, "\"], [\"", sequence, "\"], [\"", token, "\"]")));
  }
  RequireOneLabel(reader);
  if (config.head != Head::kTokenScore) return;
  config.score_bias = true;
  reader.Bool("token_classification_bias", &config.score_bias);
}

void ReadTokenIds(ConfigReader& reader, ModelConfig& config) {
  // A family's default that the vocabulary lacks names no token.
  const auto outside = [&](int64_t id) { return id >= config.vocab_size; };
  std::erase_if(config.eos_token_ids, outside);
  if (config.bos_token_id && outside(*config.bos_token_id)) config.bos_token_id.reset();
  if (config.pad_token_id && outside(*config.pad_token_id)) config.pad_token_id.reset();

  reader.NullableInteger("bos_token_id", 0, &config.bos_token_id);
  if (reader.Has("pad_token_id") && reader.Get("pad_token_id") == -1) {
    config.pad_token_id.reset();  // how some checkpoints write "no padding"
  } else {
    reader.NullableInteger("pad_token_id", 0, &config.pad_token_id);
  }
  if (!reader.Contains("eos_token_id")) return;
  config.eos_token_ids.clear();
  if (!reader.Has("eos_token_id")) return;
  const Json given = reader.Get("eos_token_id");
  for (const Json& id : given.is_array() ? given : Json::array({given})) {
    if (!id.is_number_integer() || id < 0 || id > ConfigReader::kMaxSize) {
      return reader.Fail("eos_token_id", "a token id or a list of token ids");
    }
    config.eos_token_ids.push_back(id.get<int64_t>());
  }
}

void ReadSizes(ConfigReader& reader, ModelConfig& config) {
  reader.Integer("vocab_size", true, 1, &config.vocab_size);
  reader.Integer("hidden_size", true, 1, &config.hidden_size);
  reader.Integer("intermediate_size", true, 1, &config.intermediate_size);
  reader.Integer("num_hidden_layers", true, 1, &config.num_layers);
  reader.Integer("num_attention_heads", true, 1, &config.num_heads);
  if (!reader.status().ok()) return;

  std::optional<int64_t> kv_heads, head_dim;
  if (config.num_kv_heads > 0) kv_heads = config.num_kv_heads;
  if (config.head_dim > 0) head_dim = config.head_dim;
  reader.NullableInteger("num_key_value_heads", 1, &kv_heads);
  reader.NullableInteger("head_dim", 2, &head_dim);
  config.num_kv_heads = kv_heads.value_or(config.num_heads);
  config.head_dim = head_dim.value_or(config.hidden_size / config.num_heads);
  if (!head_dim && config.head_dim * config.num_heads != config.hidden_size) {
    reader.Fail("hidden_size", "a multiple of num_attention_heads where head_dim is not given");
  }
  reader.Integer("max_position_embeddings", false, 1, &config.max_position_embeddings);
  config.longest_context = config.max_position_embeddings;
  reader.Positive("rms_norm_eps", false, &config.rms_norm_eps);
  reader.Positive("initializer_range", false, &config.initializer_range);
  reader.Bool("tie_word_embeddings", &config.tie_word_embeddings);
}

void ReadActivation(ConfigReader& reader, const char* field, ModelConfig& config) {
  std::string name;
  reader.Text(field, &name);
  if (name.empty()) return;
  if (name == "silu" || name == "swish") {
    config.activation = kernels::Activation::kSilu;
  } else if (name == "gelu_pytorch_tanh") {
    config.activation = kernels::Activation::kGeluTanh;
  } else {
    reader.Update(UnsupportedError(field, name, R"("silu", "gelu_pytorch_tanh")"));
  }
}

absl::StatusOr<ModelConfig> Parse(std::string_view json) {
  const Json object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  ConfigReader reader(object, "");
  ROLLCALL_ASSIGN_OR_RETURN(const Family* const family, ReadFamily(reader));
  ModelConfig config;
  config.family = family->model_type;
  family->set_defaults(config);
  if (reader.Has("quantization_config")) {
    reader.Update(UnsupportedError("quantization_config", reader.Get("quantization_config"),
                                   "unquantized weights"));
  }
  ReadHead(reader, *family, config);
  ReadActivation(reader, family->activation_field, config);
  ReadSizes(reader, config);
  reader.Text("torch_dtype", &config.dtype);
  reader.Text("dtype", &config.dtype);
  ReadTokenIds(reader, config);
  ROLLCALL_RETURN_IF_ERROR(reader.status());
  family->read(reader, config);
  ROLLCALL_RETURN_IF_ERROR(reader.status());
  ROLLCALL_RETURN_IF_ERROR(config.Validate());
  config.original_json = std::string(json);
  return config;
}

absl::Status ValidateRope(const Rope& rope, int64_t rotary_dim) {
  const RopeScaling& scaling = rope.scaling;
  if (scaling.type == RopeScaling::Type::kLlama3 &&
      scaling.high_freq_factor <= scaling.low_freq_factor) {
    return ExpectedError("high_freq_factor", "more than low_freq_factor", scaling.high_freq_factor);
  }
  if (scaling.type == RopeScaling::Type::kDynamic && rotary_dim <= 2) {
    return ExpectedError("head_dim", "more than 2 with the rope type \"dynamic\"", rotary_dim);
  }
  const auto frequencies = static_cast<size_t>(rotary_dim / 2);
  if (scaling.type == RopeScaling::Type::kLongRope &&
      (scaling.short_factor.size() != frequencies || scaling.long_factor.size() != frequencies)) {
    return ExpectedError("short_factor, long_factor", absl::StrCat(frequencies, " numbers"),
                         {scaling.short_factor.size(), scaling.long_factor.size()});
  }
  return absl::OkStatus();
}

// No checkpoint holds more: a safetensors header describes about a million tensors. And no sum of
// sizes comes near the end of int64 below.
constexpr double kMaxTensors = 1e6;
constexpr double kMaxParameters = 1e14;

absl::Status ValidateWhole(const ModelConfig& config) {
  double tensors = 0, inside = 0;  // inside: elements of MLPs and experts
  const auto hidden = static_cast<double>(config.hidden_size);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const bool mixture = config.Layer(i).experts;
    const auto count = static_cast<double>(mixture ? config.num_experts : 1);
    const auto inner =
        static_cast<double>(mixture ? config.expert_intermediate_size : config.intermediate_size);
    tensors += 3 * count + 20;
    inside += 3 * count * hidden * inner;
  }
  if (tensors > kMaxTensors) {
    return ExpectedError("num_hidden_layers",
                         absl::StrCat("a model of at most ", kMaxTensors, " tensors"),
                         config.num_layers);
  }
  const auto width = static_cast<double>(config.num_heads + config.num_kv_heads) *
                     static_cast<double>(config.head_dim);
  const double parameters = 2 * static_cast<double>(config.vocab_size) * hidden +
                            2 * static_cast<double>(config.num_layers) * hidden * width + inside;
  if (parameters > kMaxParameters) {
    return ExpectedError("hidden_size",
                         absl::StrCat("a model of at most ", kMaxParameters, " parameters"),
                         absl::StrCat("about ", parameters));
  }
  return absl::OkStatus();
}

absl::Status ValidateLayers(const ModelConfig& config) {
  if (!config.layers.empty() && config.layers.size() != static_cast<size_t>(config.num_layers)) {
    return ExpectedError("layers", absl::StrCat(config.num_layers, " of them"),
                         config.layers.size());
  }
  bool experts = false, sliding = false;
  for (const LayerOptions& layer : config.layers) {
    experts = experts || layer.experts;
    sliding = sliding || layer.sliding;
  }
  if (sliding && config.sliding_window < 1) {
    return ExpectedError("sliding_window", "an integer from 1, as layers slide",
                         config.sliding_window);
  }
  if (!experts) return absl::OkStatus();
  if (config.num_experts < 1 || config.num_experts > kernels::kMaxExperts) {
    return ExpectedError("num_experts", absl::StrCat("an integer from 1 to ", kernels::kMaxExperts),
                         config.num_experts);
  }
  if (config.experts_per_token < 1 || config.experts_per_token > config.num_experts) {
    return ExpectedError("num_experts_per_tok", "an integer from 1 to the number of experts",
                         config.experts_per_token);
  }
  if (config.expert_intermediate_size < 1) {
    return ExpectedError("moe_intermediate_size", "an integer from 1",
                         config.expert_intermediate_size);
  }
  return absl::OkStatus();
}

absl::Status ValidateTokenIds(const ModelConfig& config) {
  for (int64_t id : config.eos_token_ids) {
    if (id < 0 || id >= config.vocab_size) {
      return ExpectedError("eos_token_id", "less than vocab_size", id);
    }
  }
  for (const auto& [field, id] :
       {std::pair("bos_token_id", config.bos_token_id), {"pad_token_id", config.pad_token_id}}) {
    if (id.has_value() && (*id < 0 || *id >= config.vocab_size)) {
      return ExpectedError(field, "less than vocab_size", *id);
    }
  }
  return absl::OkStatus();
}

Json RopeJson(const RopeScaling& scaling) {
  switch (scaling.type) {
    case RopeScaling::Type::kDefault:
      return nullptr;
    case RopeScaling::Type::kLinear:
      return {{"rope_type", "linear"}, {"factor", scaling.factor}};
    case RopeScaling::Type::kDynamic:
      return {{"rope_type", "dynamic"}, {"factor", scaling.factor}};
    case RopeScaling::Type::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", scaling.factor},
              {"low_freq_factor", scaling.low_freq_factor},
              {"high_freq_factor", scaling.high_freq_factor},
              {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
    case RopeScaling::Type::kYarn:
      return {{"rope_type", "yarn"},
              {"factor", scaling.factor},
              {"attention_factor", scaling.attention_factor},
              {"beta_fast", scaling.beta_fast},
              {"beta_slow", scaling.beta_slow},
              {"truncate", scaling.truncate},
              {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
    case RopeScaling::Type::kLongRope:
      return {{"rope_type", "longrope"},
              {"attention_factor", scaling.attention_factor},
              {"short_factor", scaling.short_factor},
              {"long_factor", scaling.long_factor},
              {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
  }
  return nullptr;
}

Json OptionalId(const std::optional<int64_t>& id) { return id.has_value() ? Json(*id) : Json(); }

}  // namespace

absl::StatusOr<ModelConfig> ModelConfig::FromJson(std::string_view json, std::string_view file) {
  return Annotate(Parse(json), file);
}

absl::Status ModelConfig::Validate() const {
  if (FindFamily(family) == nullptr) return ExpectedError("model_type", "a known family", family);
  const std::pair<const char*, int64_t> sizes[] = {
      {"vocab_size", vocab_size},
      {"hidden_size", hidden_size},
      {"intermediate_size", intermediate_size},
      {"num_hidden_layers", num_layers},
      {"num_attention_heads", num_heads},
      {"num_key_value_heads", num_kv_heads},
      {"head_dim", head_dim},
      {"max_position_embeddings", max_position_embeddings}};
  for (const auto& [field, value] : sizes) {
    if (value < 1 || value > ConfigReader::kMaxSize) {
      return ExpectedError(field, absl::StrCat("an integer from 1 to ", ConfigReader::kMaxSize),
                           value);
    }
  }
  if (num_heads % num_kv_heads != 0) {
    return ExpectedError("num_key_value_heads", "a divisor of num_attention_heads", num_kv_heads);
  }
  if (num_heads / num_kv_heads > kernels::kMaxGroup) {
    return UnsupportedError("num_key_value_heads", num_kv_heads,
                            absl::StrCat("at most ", kernels::kMaxGroup, " query heads a KV head"));
  }
  if (head_dim % 2 != 0) return ExpectedError("head_dim", "an even number", head_dim);
  if (RotaryDim() % 2 != 0 || RotaryDim() < 2 || RotaryDim() > head_dim) {
    return ExpectedError("partial_rotary_factor", "an even number of rotated elements a head",
                         RotaryDim());
  }
  ROLLCALL_RETURN_IF_ERROR(ValidateRope(rope, RotaryDim()));
  if (sliding_rope) ROLLCALL_RETURN_IF_ERROR(ValidateRope(*sliding_rope, RotaryDim()));
  ROLLCALL_RETURN_IF_ERROR(ValidateLayers(*this));
  ROLLCALL_RETURN_IF_ERROR(ValidateWhole(*this));
  ROLLCALL_RETURN_IF_ERROR(ValidateTokenIds(*this));
  if (dtype != "float32" && dtype != "bfloat16" && dtype != "float16") {
    return UnsupportedError("torch_dtype", dtype, "\"float32\", \"bfloat16\", \"float16\"");
  }
  return absl::OkStatus();
}

std::string ModelConfig::ToJson() const {
  if (!original_json.empty()) return original_json;
  Json eos = eos_token_ids;
  if (eos_token_ids.empty()) eos = nullptr;
  if (eos_token_ids.size() == 1) eos = eos_token_ids[0];
  const Json object = {{"architectures", {"LlamaForCausalLM"}},
                       {"attention_bias", qkv_bias},
                       {"attention_dropout", 0.0},
                       {"bos_token_id", OptionalId(bos_token_id)},
                       {"eos_token_id", eos},
                       {"head_dim", head_dim},
                       {"hidden_act", "silu"},
                       {"hidden_size", hidden_size},
                       {"initializer_range", initializer_range},
                       {"intermediate_size", intermediate_size},
                       {"max_position_embeddings", max_position_embeddings},
                       {"mlp_bias", mlp_bias},
                       {"model_type", "llama"},
                       {"num_attention_heads", num_heads},
                       {"num_hidden_layers", num_layers},
                       {"num_key_value_heads", num_kv_heads},
                       {"pad_token_id", OptionalId(pad_token_id)},
                       {"rms_norm_eps", rms_norm_eps},
                       {"rope_scaling", RopeJson(rope.scaling)},
                       {"rope_theta", rope.theta},
                       {"tie_word_embeddings", tie_word_embeddings},
                       {"torch_dtype", dtype},
                       {"use_cache", true},
                       {"vocab_size", vocab_size}};
  return object.dump(2) + "\n";
}

absl::Status ModelConfig::UseContext(int64_t tokens) {
  const int64_t longest = longest_context == 0 ? max_position_embeddings : longest_context;
  if (tokens < 0 || tokens > longest) {
    return ExpectedError("model.context_tokens",
                         absl::StrCat("at most ", longest, ", the model's longest context"),
                         tokens);
  }
  if (tokens > 0) SetContext(tokens);
  return absl::OkStatus();
}

absl::Status ModelConfig::RequireLanguageModel() const {
  if (head == Head::kLanguageModel) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      "architectures: the model gives ",
      head == Head::kSequenceScore ? "a reward for each sequence" : "a value for each token",
      ", but log-probs and text need a …ForCausalLM"));
}

int64_t ModelConfig::ParameterCount() const {
  int64_t count = 0;
  for (const ParameterSpec& spec : ParametersOf(*this)) {
    int64_t elements = 1;
    for (const int64_t size : spec.shape) elements *= size;
    count += elements;
  }
  return count;
}

int64_t ModelConfig::KvElementsPerToken() const {
  return num_layers * num_kv_heads * (head_dim + kernels::PaddedHead(head_dim));
}

}  // namespace rollcall::model
