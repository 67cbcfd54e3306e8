#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  config.num_kv_heads = 8;
  config.max_position_embeddings = 131072;
  config.rms_norm_eps = 1e-5;
  config.rope.theta = 1e6;
  config.num_experts = 8;
  config.experts_per_token = 2;
  config.normalize_expert_weights = true;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
}

void Read(ConfigReader& reader, ModelConfig& config) {
  ReadRope(reader, config);
  ReadWindowOfAllLayers(reader, config);
  reader.Integer("num_local_experts", false, 1, &config.num_experts);
  reader.Integer("num_experts_per_tok", false, 1, &config.experts_per_token);
  reader.RefuseUnless("router_jitter_noise", 0.0);
  config.expert_intermediate_size = config.intermediate_size;
  for (LayerOptions& layer : config.layers) layer.experts = true;
}

}  // namespace

const Family kMixtral = {.model_type = "mixtral",
                         .prefix = "Mixtral",
                         .score_prefix = "Mixtral",
                         .models = "Mixtral 8x7B, 8x22B",
                         .features = "mixture of experts in every layer",
                         .names = {.router = "block_sparse_moe.gate",
                                   .experts = "block_sparse_moe.experts",
                                   .expert_gate = "w1",
                                   .expert_up = "w3",
                                   .expert_down = "w2"},
                         .set_defaults = SetDefaults,
                         .read = Read};

}  // namespace rollcall::model
