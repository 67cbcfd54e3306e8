#include "common/model/model_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::model {
namespace {

using Json = nlohmann::json;

// Far above any real model; keeps products of sizes inside int64.
constexpr int64_t kMaxSize = int64_t{1} << 24;

absl::Status Expected(std::string_view field, std::string_view expected, const Json& got) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(field), ": expected ", std::string(expected), ", got ", got.dump()));
}

absl::Status Unsupported(std::string_view field, const Json& got, std::string_view supported) {
  return absl::UnimplementedError(
      absl::StrCat(std::string(field), ": ", got.dump(),
                   " is not supported; supported: ", std::string(supported)));
}

// Reads the fields of one JSON object; the first error wins and later reads do nothing. A null
// counts as absent.
class Reader {
 public:
  Reader(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {}

  bool Has(const char* field) const { return object_.contains(field) && !object_[field].is_null(); }
  const Json& Get(const char* field) const { return object_[field]; }
  std::string Name(const char* field) const { return prefix_ + field; }

  void Integer(const char* field, bool required, int64_t low, int64_t* out) {
    if (!Present(field, required, "an integer")) return;
    const Json& value = object_[field];
    if (!value.is_number_integer() || value < low || value > kMaxSize) {
      return Fail(field, absl::StrCat("an integer from ", low, " to ", kMaxSize));
    }
    *out = value.get<int64_t>();
  }

  void Positive(const char* field, bool required, double* out) {
    if (!Present(field, required, "a number")) return;
    const Json& value = object_[field];
    if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
      return Fail(field, "a number above 0");
    }
    *out = value.get<double>();
  }

  void Bool(const char* field, bool* out) {
    if (!Present(field, false, "true or false")) return;
    if (!object_[field].is_boolean()) return Fail(field, "true or false");
    *out = object_[field].get<bool>();
  }

  void Text(const char* field, std::string* out) {
    if (!Present(field, false, "a string")) return;
    if (!object_[field].is_string()) return Fail(field, "a string");
    *out = object_[field].get<std::string>();
  }

  void Fail(const char* field, std::string_view expected) {
    Update(Expected(Name(field), expected, object_.contains(field) ? object_[field] : Json()));
  }
  void Update(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const absl::Status& status() const { return status_; }
  const Json& object() const { return object_; }

 private:
  bool Present(const char* field, bool required, std::string_view expected) {
    if (!status_.ok()) return false;
    if (Has(field)) return true;
    if (required) {
      Update(absl::InvalidArgumentError(
          absl::StrCat(Name(field), ": expected ", std::string(expected), ", got nothing")));
    }
    return false;
  }

  const Json& object_;
  std::string prefix_;
  absl::Status status_;
};

// Settings that would change the result and that this code does not compute.
void RefuseUnsupported(Reader& reader) {
  const auto refuse_unless = [&](const char* field, const Json& only, std::string_view supported) {
    if (reader.Has(field) && reader.Get(field) != only) {
      reader.Update(Unsupported(reader.Name(field), reader.Get(field), supported));
    }
  };
  if (!reader.Has("model_type")) return reader.Fail("model_type", "a string");
  refuse_unless("model_type", "llama", "\"llama\"");
  refuse_unless("architectures", Json::array({"LlamaForCausalLM"}), "[\"LlamaForCausalLM\"]");
  refuse_unless("hidden_act", "silu", "\"silu\"");
  refuse_unless("attention_bias", false, "false");
  refuse_unless("mlp_bias", false, "false");
  refuse_unless("partial_rotary_factor", 1.0, "1.0");
  if (reader.Has("quantization_config")) {
    reader.Update(Unsupported("quantization_config", reader.Get("quantization_config"),
                              "unquantized weights"));
  }
}

void ReadTokenIds(Reader& reader, ModelConfig* config) {
  // transformers' LlamaConfig has 1 and 2 where the field is absent; an explicit null means none.
  const auto optional_id = [&](const char* field, const Json& object,
                               std::optional<int64_t> absent) -> std::optional<int64_t> {
    if (!object.contains(field)) return absent;
    int64_t id = -1;
    reader.Integer(field, false, 0, &id);
    return id < 0 ? std::nullopt : std::optional<int64_t>(id);
  };
  const Json& object = reader.object();
  config->bos_token_id = optional_id("bos_token_id", object, 1);
  // Some checkpoints write -1 for "no padding".
  const bool no_padding = reader.Has("pad_token_id") && reader.Get("pad_token_id") == -1;
  if (!no_padding) config->pad_token_id = optional_id("pad_token_id", object, std::nullopt);
  config->eos_token_ids.clear();
  if (!object.contains("eos_token_id")) {
    config->eos_token_ids = {2};
  } else if (reader.Has("eos_token_id")) {
    const Json ids = reader.Get("eos_token_id").is_array()
                         ? reader.Get("eos_token_id")
                         : Json::array({reader.Get("eos_token_id")});
    for (const Json& id : ids) {
      if (!id.is_number_integer() || id < 0 || id > kMaxSize) {
        return reader.Fail("eos_token_id", "a token id or a list of token ids");
      }
      config->eos_token_ids.push_back(id.get<int64_t>());
    }
  }
}

absl::Status ReadRope(const Json& object, ModelConfig* config) {
  Reader top(object, "");
  top.Positive("rope_theta", false, &config->rope_theta);
  ROLLCALL_RETURN_IF_ERROR(top.status());
  const char* field = top.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!top.Has(field)) return absl::OkStatus();
  if (!top.Get(field).is_object()) return Expected(field, "an object", top.Get(field));

  Reader reader(top.Get(field), absl::StrCat(field, "."));
  reader.Positive("rope_theta", false, &config->rope_theta);
  const char* type_field = reader.Has("rope_type") ? "rope_type" : "type";
  std::string type = "default";
  reader.Text(type_field, &type);
  RopeScaling& scaling = config->rope_scaling;
  if (type == "linear" || type == "llama3") {
    scaling.type = type == "linear" ? RopeScaling::Type::kLinear : RopeScaling::Type::kLlama3;
    reader.Positive("factor", true, &scaling.factor);
  } else if (type != "default") {
    return Unsupported(reader.Name(type_field), type, "\"default\", \"linear\", \"llama3\"");
  }
  if (type == "llama3") {
    reader.Positive("low_freq_factor", true, &scaling.low_freq_factor);
    reader.Positive("high_freq_factor", true, &scaling.high_freq_factor);
    reader.Integer("original_max_position_embeddings", true, 1,
                   &scaling.original_max_position_embeddings);
  }
  if (reader.Has("partial_rotary_factor") && reader.Get("partial_rotary_factor") != 1.0) {
    return Unsupported(reader.Name("partial_rotary_factor"), reader.Get("partial_rotary_factor"),
                       "1.0");
  }
  return reader.status();
}

absl::StatusOr<ModelConfig> Parse(std::string_view json) {
  const Json object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  ModelConfig config;
  Reader reader(object, "");
  RefuseUnsupported(reader);
  reader.Integer("vocab_size", true, 1, &config.vocab_size);
  reader.Integer("hidden_size", true, 1, &config.hidden_size);
  reader.Integer("intermediate_size", true, 1, &config.intermediate_size);
  reader.Integer("num_hidden_layers", true, 1, &config.num_layers);
  reader.Integer("num_attention_heads", true, 1, &config.num_heads);
  config.num_kv_heads = config.num_heads;
  reader.Integer("num_key_value_heads", false, 1, &config.num_kv_heads);
  if (config.num_heads > 0) config.head_dim = config.hidden_size / config.num_heads;
  if (reader.status().ok() && !reader.Has("head_dim") &&
      config.head_dim * config.num_heads != config.hidden_size) {
    reader.Fail("hidden_size", "a multiple of num_attention_heads where head_dim is not given");
  }
  reader.Integer("head_dim", false, 2, &config.head_dim);
  reader.Integer("max_position_embeddings", false, 1, &config.max_position_embeddings);
  reader.Positive("rms_norm_eps", false, &config.rms_norm_eps);
  reader.Positive("initializer_range", false, &config.initializer_range);
  reader.Bool("tie_word_embeddings", &config.tie_word_embeddings);
  reader.Text("torch_dtype", &config.dtype);
  reader.Text("dtype", &config.dtype);
  ReadTokenIds(reader, &config);
  ROLLCALL_RETURN_IF_ERROR(reader.status());
  ROLLCALL_RETURN_IF_ERROR(ReadRope(object, &config));
  ROLLCALL_RETURN_IF_ERROR(config.Validate());
  config.original_json = std::string(json);
  return config;
}

Json RopeJson(const RopeScaling& scaling) {
  switch (scaling.type) {
    case RopeScaling::Type::kDefault:
      return nullptr;
    case RopeScaling::Type::kLinear:
      return {{"rope_type", "linear"}, {"factor", scaling.factor}};
    case RopeScaling::Type::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", scaling.factor},
              {"low_freq_factor", scaling.low_freq_factor},
              {"high_freq_factor", scaling.high_freq_factor},
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
  const auto size = [](const char* field, int64_t value) {
    return value >= 1 && value <= kMaxSize
               ? absl::OkStatus()
               : Expected(field, absl::StrCat("1 to ", kMaxSize), value);
  };
  ROLLCALL_RETURN_IF_ERROR(size("vocab_size", vocab_size));
  ROLLCALL_RETURN_IF_ERROR(size("hidden_size", hidden_size));
  ROLLCALL_RETURN_IF_ERROR(size("intermediate_size", intermediate_size));
  ROLLCALL_RETURN_IF_ERROR(size("num_hidden_layers", num_layers));
  ROLLCALL_RETURN_IF_ERROR(size("num_attention_heads", num_heads));
  ROLLCALL_RETURN_IF_ERROR(size("num_key_value_heads", num_kv_heads));
  ROLLCALL_RETURN_IF_ERROR(size("head_dim", head_dim));
  ROLLCALL_RETURN_IF_ERROR(size("max_position_embeddings", max_position_embeddings));
  if (num_heads % num_kv_heads != 0) {
    return Expected("num_key_value_heads", "a divisor of num_attention_heads", num_kv_heads);
  }
  if (num_heads / num_kv_heads > 64) {
    return Unsupported("num_key_value_heads", num_kv_heads, "at most 64 query heads a KV head");
  }
  if (head_dim % 2 != 0) return Expected("head_dim", "an even number", head_dim);
  if (rope_scaling.type == RopeScaling::Type::kLlama3 &&
      rope_scaling.high_freq_factor <= rope_scaling.low_freq_factor) {
    return Expected("high_freq_factor", "more than low_freq_factor", rope_scaling.high_freq_factor);
  }
  for (int64_t id : eos_token_ids) {
    if (id < 0 || id >= vocab_size) return Expected("eos_token_id", "less than vocab_size", id);
  }
  for (const auto& id : {bos_token_id, pad_token_id}) {
    if (id.has_value() && (*id < 0 || *id >= vocab_size)) {
      return Expected(id == bos_token_id ? "bos_token_id" : "pad_token_id", "less than vocab_size",
                      *id);
    }
  }
  if (dtype != "float32" && dtype != "bfloat16" && dtype != "float16") {
    return Unsupported("torch_dtype", dtype, "\"float32\", \"bfloat16\", \"float16\"");
  }
  return absl::OkStatus();
}

std::string ModelConfig::ToJson() const {
  if (!original_json.empty()) return original_json;
  Json eos = eos_token_ids;
  if (eos_token_ids.empty()) eos = nullptr;
  if (eos_token_ids.size() == 1) eos = eos_token_ids[0];
  const Json object = {{"architectures", {"LlamaForCausalLM"}},
                       {"attention_bias", false},
                       {"attention_dropout", 0.0},
                       {"bos_token_id", OptionalId(bos_token_id)},
                       {"eos_token_id", eos},
                       {"head_dim", head_dim},
                       {"hidden_act", "silu"},
                       {"hidden_size", hidden_size},
                       {"initializer_range", initializer_range},
                       {"intermediate_size", intermediate_size},
                       {"max_position_embeddings", max_position_embeddings},
                       {"mlp_bias", false},
                       {"model_type", "llama"},
                       {"num_attention_heads", num_heads},
                       {"num_hidden_layers", num_layers},
                       {"num_key_value_heads", num_kv_heads},
                       {"pad_token_id", OptionalId(pad_token_id)},
                       {"rms_norm_eps", rms_norm_eps},
                       {"rope_scaling", RopeJson(rope_scaling)},
                       {"rope_theta", rope_theta},
                       {"tie_word_embeddings", tie_word_embeddings},
                       {"torch_dtype", dtype},
                       {"use_cache", true},
                       {"vocab_size", vocab_size}};
  return object.dump(2) + "\n";
}

int64_t ModelConfig::ParameterCount() const {
  const int64_t attention =
      2 * hidden_size * num_heads * head_dim + 2 * hidden_size * num_kv_heads * head_dim;
  const int64_t layer = attention + 3 * hidden_size * intermediate_size + 2 * hidden_size;
  const int64_t embeddings = (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size;
  return embeddings + num_layers * layer + hidden_size;
}

std::vector<float> RopeFrequencies(const ModelConfig& config) {
  constexpr double kTwoPi = 6.283185307179586;
  const RopeScaling& scaling = config.rope_scaling;
  std::vector<float> frequencies(config.head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
    double frequency = 1.0 / std::pow(config.rope_theta, exponent);
    if (scaling.type == RopeScaling::Type::kLinear) frequency /= scaling.factor;
    if (scaling.type == RopeScaling::Type::kLlama3) {
      // Long waves are stretched by the factor, short ones kept, those between blended.
      const double turns =
          static_cast<double>(scaling.original_max_position_embeddings) * frequency / kTwoPi;
      const double blend =
          (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
      const double kept = std::min(1.0, std::max(0.0, blend));
      frequency = (1.0 - kept) * frequency / scaling.factor + kept * frequency;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace rollcall::model
