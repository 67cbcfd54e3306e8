#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.num_kv_heads = 32;
  config.max_position_embeddings = 32768;
}

void Read(ConfigReader& reader, ModelConfig& config) {
  config.qkv_bias = true;
  ReadRope(reader, config);
  ReadQwenWindow(reader, config);
}

}  // namespace

void ReadQwenWindow(ConfigReader& reader, ModelConfig& config) {
  bool use_window = false;
  std::optional<int64_t> window = 4096;
  int64_t first = 28;
  reader.Bool("use_sliding_window", &use_window);
  reader.NullableInteger("sliding_window", 1, &window);
  reader.Integer("max_window_layers", false, 0, &first);
  config.sliding_window = use_window ? window.value_or(0) : 0;
  ReadLayerTypes(reader, config,
                 [&](int64_t layer) { return config.sliding_window > 0 && layer >= first; });
}

const Family kQwen2 = {.model_type = "qwen2",
                       .prefix = "Qwen2",
                       .score_prefix = "Qwen2",
                       .models = "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen",
                       .features = "bias of queries, keys and values; a sliding window on request",
                       .set_defaults = SetDefaults,
                       .read = Read};

}  // namespace rollcall::model
