#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.num_kv_heads = 32;
  config.head_dim = 128;
  config.max_position_embeddings = 32768;
}

void Read(ConfigReader& reader, ModelConfig& config) {
  config.qk_norm = QkNorm::kPerHead;
  ReadAttentionBias(reader, config);
  ReadRope(reader, config);
  ReadQwenWindow(reader, config);
}

}  // namespace

const Family kQwen3 = {.model_type = "qwen3",
                       .prefix = "Qwen3",
                       .score_prefix = "Qwen3",
                       .models = "Qwen3 dense",
                       .features = "norms of each query and key head, head_dim of its own",
                       .set_defaults = SetDefaults,
                       .read = Read};

}  // namespace rollcall::model
