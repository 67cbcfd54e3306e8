#include <cmath>

#include "common/model/families/family.h"

namespace rollcall::model {

void SetGemmaDefaults(ModelConfig& config) {
  config.num_kv_heads = 4;
  config.head_dim = 256;
  config.tie_word_embeddings = true;
  config.activation = kernels::Activation::kGeluTanh;
  config.pad_token_id = 0;
  config.eos_token_ids = {1};
  config.bos_token_id = 2;
}

void ReadGemmaBlock(ConfigReader& reader, ModelConfig& config) {
  config.unit_offset_norm = true;
  config.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  ReadAttentionBias(reader, config);
  double query_scalar = 256;
  reader.Positive("query_pre_attn_scalar", false, &query_scalar);
  config.attention_scale = 1.0 / std::sqrt(query_scalar);
  std::optional<int64_t> window = 4096;
  reader.NullableInteger("sliding_window", 1, &window);
  config.sliding_window = window.value_or(0);
  std::optional<double> final_cap;
  if (config.final_softcap > 0) final_cap = config.final_softcap;
  reader.NullablePositive("final_logit_softcapping", &final_cap);
  config.final_softcap = final_cap.value_or(0.0);
  reader.RefuseUnless("use_bidirectional_attention", false);
}

namespace {

void SetDefaults(ModelConfig& config) {
  SetGemmaDefaults(config);
  config.max_position_embeddings = 8192;
  config.final_softcap = 30.0;
}

void Read(ConfigReader& reader, ModelConfig& config) {
  ReadGemmaBlock(reader, config);
  std::optional<double> cap = 50.0;
  reader.NullablePositive("attn_logit_softcapping", &cap);
  config.attention_softcap = cap.value_or(0.0);
  ReadRope(reader, config);
  ReadLayerTypes(reader, config, [](int64_t layer) { return layer % 2 == 0; });
}

}  // namespace

const Family kGemma2 = {.model_type = "gemma2",
                        .prefix = "Gemma2",
                        .score_prefix = "Gemma2",
                        .models = "Gemma 2",
                        .features =
                            "soft caps, alternating window, norms around both halves, "
                            "1 + w norms, scaled embedding, GELU",
                        .names = {.attention_output_norm = "post_attention_layernorm",
                                  .mlp_norm = "pre_feedforward_layernorm",
                                  .mlp_output_norm = "post_feedforward_layernorm"},
                        .activation_field = "hidden_activation",
                        .set_defaults = SetDefaults,
                        .read = Read};

}  // namespace rollcall::model
