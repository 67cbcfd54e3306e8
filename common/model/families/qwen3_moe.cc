#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.num_kv_heads = 4;
  config.max_position_embeddings = 32768;
  config.num_experts = 128;
  config.experts_per_token = 8;
  config.expert_intermediate_size = 768;
}

// mlp_only_layers: layers that keep an MLP.
std::vector<int64_t> DenseLayers(ConfigReader& reader) {
  std::vector<int64_t> dense;
  if (!reader.Has("mlp_only_layers")) return dense;
  const nlohmann::json list = reader.Get("mlp_only_layers");
  for (const nlohmann::json& layer : list) {
    if (!list.is_array() || !layer.is_number_integer()) {
      reader.Fail("mlp_only_layers", "a list of layer indices");
      return {};
    }
    dense.push_back(layer.get<int64_t>());
  }
  return dense;
}

void Read(ConfigReader& reader, ModelConfig& config) {
  config.qk_norm = QkNorm::kPerHead;
  ReadAttentionBias(reader, config);
  ReadRope(reader, config);
  bool use_window = false;
  reader.Bool("use_sliding_window", &use_window);
  config.layers.resize(static_cast<size_t>(config.num_layers));
  if (use_window) {
    config.sliding_window = 4096;
    ReadWindowOfAllLayers(reader, config);
  }
  CheckLayerTypes(reader, config);

  // Saved by transformers 5 under the first name, else under the second.
  reader.Integer("num_local_experts", false, 1, &config.num_experts);
  reader.Integer("num_experts", false, 1, &config.num_experts);
  reader.Integer("num_experts_per_tok", false, 1, &config.experts_per_token);
  reader.Integer("moe_intermediate_size", false, 1, &config.expert_intermediate_size);
  reader.Bool("norm_topk_prob", &config.normalize_expert_weights);
  int64_t step = 1;
  reader.Integer("decoder_sparse_step", false, 1, &step);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    config.layers[i].experts = (i + 1) % step == 0;
  }
  for (const int64_t layer : DenseLayers(reader)) {
    if (layer >= 0 && layer < config.num_layers) config.layers[layer].experts = false;
  }
}

}  // namespace

const Family kQwen3Moe = {.model_type = "qwen3_moe",
                          .prefix = "Qwen3Moe",
                          .score_prefix = "Qwen3Moe",
                          .models = "Qwen3 30B-A3B, 235B-A22B, Coder",
                          .features = "Qwen3 with a mixture of experts",
                          .set_defaults = SetDefaults,
                          .read = Read};

}  // namespace rollcall::model
