#include "common/model/families/family.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace rollcall::model {
namespace {

using Json = nlohmann::json;
using Type = RopeScaling::Type;

constexpr std::array kFamilies = {&kGemma2, &kGemma3Text, &kLlama, &kMistral,  &kMixtral, &kOlmo2,
                                  &kPhi3,   &kQwen2,      &kQwen3, &kQwen3Moe, &kSmolLm3};

// YaRN's temperature (arXiv 2309.00071, equation 22), with the variants of DeepSeek's mscale.
double YarnAttentionFactor(ConfigReader& reader, double factor) {
  const auto scale = [&](double weight) {
    return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
  };
  std::optional<double> given, mscale, mscale_all_dim;
  reader.NullablePositive("attention_factor", &given);
  if (given) return *given;
  reader.NullablePositive("mscale", &mscale);
  reader.NullablePositive("mscale_all_dim", &mscale_all_dim);
  if (mscale && mscale_all_dim) return scale(*mscale) / scale(*mscale_all_dim);
  return scale(1.0);
}

void ReadYarn(ConfigReader& reader, RopeScaling& scaling) {
  scaling.attention_factor = YarnAttentionFactor(reader, scaling.factor);
  reader.Positive("beta_fast", false, &scaling.beta_fast);
  reader.Positive("beta_slow", false, &scaling.beta_slow);
  reader.Bool("truncate", &scaling.truncate);
}

// LongRoPE (arXiv 2402.13753): every frequency has its own factor, one list for short and one for
// long contexts.
void ReadLongRope(ConfigReader& reader, ModelConfig& config, RopeScaling& scaling) {
  const auto count = static_cast<size_t>(config.RotaryDim() / 2);
  reader.PositiveList("short_factor", count, &scaling.short_factor);
  reader.PositiveList("long_factor", count, &scaling.long_factor);
  const auto trained = static_cast<double>(scaling.original_max_position_embeddings);
  double stretch = static_cast<double>(config.max_position_embeddings) / trained;
  reader.Positive("factor", false, &stretch);
  if (stretch > 1) {
    scaling.attention_factor = std::sqrt(1.0 + std::log(stretch) / std::log(trained));
  }
  reader.Positive("attention_factor", false, &scaling.attention_factor);
  config.SetContext(
      std::min(config.max_position_embeddings, scaling.original_max_position_embeddings));
}

}  // namespace

std::span<const Family* const> Families() { return kFamilies; }

const Family* FindFamily(std::string_view model_type) {
  for (const Family* family : kFamilies) {
    if (family->model_type == model_type) return family;
  }
  return nullptr;
}

void ReadRopeObject(const Json& object, const std::string& name, ModelConfig& config,
                    ConfigReader& errors, Rope& rope) {
  if (!object.is_object()) return errors.Update(ExpectedError(name, "an object", object));
  ConfigReader reader(object, name + ".");
  reader.Positive("rope_theta", false, &rope.theta);
  const char* type_field = reader.Has("rope_type") ? "rope_type" : "type";
  std::string type = "default";
  reader.Text(type_field, &type);
  static constexpr std::array<std::pair<std::string_view, Type>, 6> kTypes = {
      {{"default", Type::kDefault},
       {"linear", Type::kLinear},
       {"dynamic", Type::kDynamic},
       {"yarn", Type::kYarn},
       {"longrope", Type::kLongRope},
       {"llama3", Type::kLlama3}}};
  const auto* known = std::find_if(kTypes.begin(), kTypes.end(),
                                   [&](const auto& entry) { return entry.first == type; });
  if (known == kTypes.end()) {
    return errors.Update(
        UnsupportedError(reader.Name(type_field), type,
                         R"("default", "linear", "dynamic", "yarn", "longrope", "llama3")"));
  }
  RopeScaling& scaling = rope.scaling;
  scaling = {.type = known->second};
  if (scaling.type != Type::kDefault && scaling.type != Type::kLongRope) {
    reader.Positive("factor", true, &scaling.factor);
  }
  if (scaling.type != Type::kDefault && scaling.type != Type::kLinear) {
    scaling.original_max_position_embeddings = config.max_position_embeddings;
  }
  if (scaling.type == Type::kLlama3 || scaling.type == Type::kYarn ||
      scaling.type == Type::kLongRope) {
    reader.Integer("original_max_position_embeddings", false, 1,
                   &scaling.original_max_position_embeddings);
    // Of two values the reference takes the one beside the object.
    ConfigReader top(errors.object(), "");
    top.Integer("original_max_position_embeddings", false, 1,
                &scaling.original_max_position_embeddings);
    errors.Update(top.status());
  }
  if (scaling.type == Type::kLlama3) {
    reader.Positive("low_freq_factor", true, &scaling.low_freq_factor);
    reader.Positive("high_freq_factor", true, &scaling.high_freq_factor);
  }
  // This type is for sequences longer than the model was trained on.
  if (scaling.type == Type::kDynamic) config.longest_context = ConfigReader::kMaxSize;
  if (scaling.type == Type::kYarn) ReadYarn(reader, scaling);
  if (scaling.type == Type::kLongRope) ReadLongRope(reader, config, scaling);
  errors.Update(reader.status());
}

void ReadRope(ConfigReader& reader, ModelConfig& config) {
  reader.RefuseUnless("partial_rotary_factor", 1.0);
  reader.Positive("rope_theta", false, &config.rope.theta);
  const char* field = reader.Has("rope_scaling") && !reader.Get("rope_scaling").empty()
                          ? "rope_scaling"
                          : "rope_parameters";
  if (!reader.Has(field)) return;
  const Json object = reader.Get(field);
  ReadRopeObject(object, field, config, reader, config.rope);
  if (!object.is_object()) return;
  ConfigReader inner(object, absl::StrCat(field, "."));
  inner.RefuseUnless("partial_rotary_factor", 1.0);
  for (const char* kind : {"full_attention", "sliding_attention"}) {
    if (inner.Contains(kind)) {
      inner.Update(
          UnsupportedError(inner.Name(kind), inner.Get(kind),
                           absl::StrCat("one rope for all layers of \"", config.family, "\"")));
    }
  }
  reader.Update(inner.status());
}

void ReadAttentionBias(ConfigReader& reader, ModelConfig& config) {
  reader.Bool("attention_bias", &config.qkv_bias);
  config.output_bias = config.qkv_bias;
}

void ReadWindowOfAllLayers(ConfigReader& reader, ModelConfig& config) {
  std::optional<int64_t> window = config.sliding_window;
  reader.NullableInteger("sliding_window", 1, &window);
  config.sliding_window = window.value_or(0);
  config.layers.resize(static_cast<size_t>(config.num_layers));
  for (LayerOptions& layer : config.layers) layer.sliding = config.sliding_window > 0;
  CheckLayerTypes(reader, config);
}

namespace {

// layer_types as booleans; empty where it is absent or wrong.
std::vector<bool> SlidingLayers(ConfigReader& reader, const ModelConfig& config) {
  if (!reader.Has("layer_types")) return {};
  const Json types = reader.Get("layer_types");
  if (!types.is_array() || types.size() != static_cast<size_t>(config.num_layers)) {
    reader.Fail("layer_types", absl::StrCat("a list of ", config.num_layers, " strings"));
    return {};
  }
  std::vector<bool> slides;
  for (const Json& type : types) {
    if (type != "full_attention" && type != "sliding_attention") {
      reader.Update(
          UnsupportedError("layer_types", type, R"("full_attention", "sliding_attention")"));
      return {};
    }
    slides.push_back(type == "sliding_attention");
  }
  return slides;
}

}  // namespace

void ReadLayerTypes(ConfigReader& reader, ModelConfig& config,
                    absl::FunctionRef<bool(int64_t layer)> slides) {
  if (!reader.status().ok()) return;
  const std::vector<bool> given = SlidingLayers(reader, config);
  config.layers.resize(static_cast<size_t>(config.num_layers));
  bool any = false;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    config.layers[i].sliding = given.empty() ? slides(i) : given[i];
    any = any || config.layers[i].sliding;
  }
  if (any && config.sliding_window == 0) {
    reader.Fail("sliding_window", "an integer from 1, as layers slide");
  }
  if (!any) config.sliding_window = 0;
}

void CheckLayerTypes(ConfigReader& reader, ModelConfig& config) {
  const std::vector<bool> given = SlidingLayers(reader, config);
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i] == config.Layer(static_cast<int64_t>(i)).sliding) continue;
    return reader.Update(UnsupportedError(
        "layer_types", reader.Get("layer_types"),
        absl::StrCat("for \"", config.family, "\" what sliding_window says of all layers")));
  }
}

}  // namespace rollcall::model
