#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.rms_norm_eps = 1e-5;
  config.pad_token_id = 1;
  config.eos_token_ids = {50279};
}

void Read(ConfigReader& reader, ModelConfig& config) {
  config.qk_norm = QkNorm::kWholeProjection;
  ReadAttentionBias(reader, config);
  ReadRope(reader, config);
  CheckLayerTypes(reader, config);
}

}  // namespace

const Family kOlmo2 = {.model_type = "olmo2",
                       .prefix = "Olmo2",
                       .score_prefix = "Olmo2",
                       .models = "OLMo 2",
                       .features =
                           "norms after attention and MLP, norms of the whole query and "
                           "key projections",
                       .names = {.attention_norm = nullptr,
                                 .attention_output_norm = "post_attention_layernorm",
                                 .mlp_norm = nullptr,
                                 .mlp_output_norm = "post_feedforward_layernorm"},
                       .set_defaults = SetDefaults,
                       .read = Read};

}  // namespace rollcall::model
