#include "absl/strings/str_cat.h"
#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.num_kv_heads = 4;
  config.max_position_embeddings = 32768;
  config.rope.theta = 2e6;
  config.tie_word_embeddings = true;
  config.bos_token_id = 128000;
  config.eos_token_ids = {128001};
  config.pad_token_id = 128004;
}

// no_rope_layers: 1 where a layer rotates (the name says the contrary), at least one a layer.
void ReadRotatingLayers(ConfigReader& reader, ModelConfig& config) {
  int64_t interval = 4;
  reader.Integer("no_rope_layer_interval", false, 1, &interval);
  const nlohmann::json list = reader.Get("no_rope_layers");
  const std::string expected =
      absl::StrCat("a list of at least ", config.num_layers, " numbers 0 or 1");
  if (!list.is_null() &&
      (!list.is_array() || list.size() < static_cast<size_t>(config.num_layers))) {
    return reader.Fail("no_rope_layers", expected);
  }
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const nlohmann::json rotates = list.is_null() ? nlohmann::json() : list[i];
    if (!list.is_null() && rotates != 0 && rotates != 1) {
      return reader.Fail("no_rope_layers", expected);
    }
    config.layers[i].rotates = list.is_null() ? (i + 1) % interval != 0 : rotates == 1;
  }
}

void Read(ConfigReader& reader, ModelConfig& config) {
  ReadAttentionBias(reader, config);
  reader.Bool("mlp_bias", &config.mlp_bias);
  ReadRope(reader, config);
  config.layers.resize(static_cast<size_t>(config.num_layers));
  ReadRotatingLayers(reader, config);
  bool use_window = false;
  std::optional<int64_t> window;
  reader.Bool("use_sliding_window", &use_window);
  reader.NullableInteger("sliding_window", 1, &window);
  config.sliding_window = use_window ? window.value_or(0) : 0;
  ReadLayerTypes(reader, config, [&](int64_t layer) {
    return config.sliding_window > 0 && !config.layers[layer].rotates;
  });
}

}  // namespace

const Family kSmolLm3 = {.model_type = "smollm3",
                         .prefix = "SmolLM3",
                         .score_prefix = "SmolLM3",
                         .models = "SmolLM3",
                         .features = "layers without rope",
                         .set_defaults = SetDefaults,
                         .read = Read};

}  // namespace rollcall::model
