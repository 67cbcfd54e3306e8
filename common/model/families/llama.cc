#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
}

void Read(ConfigReader& reader, ModelConfig& config) {
  ReadAttentionBias(reader, config);
  reader.Bool("mlp_bias", &config.mlp_bias);
  ReadRope(reader, config);
  CheckLayerTypes(reader, config);
}

}  // namespace

const Family kLlama = {.model_type = "llama",
                       .prefix = "Llama",
                       .score_prefix = "Llama",
                       .models = "Llama 2, 3, 3.1, 3.2, 3.3; SmolLM 1 and 2; TinyLlama",
                       .features = "grouped-query attention, SwiGLU, pre-norms",
                       .set_defaults = SetDefaults,
                       .read = Read};

}  // namespace rollcall::model
