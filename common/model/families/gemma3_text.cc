#include "absl/strings/str_cat.h"
#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

void SetDefaults(ModelConfig& config) {
  SetGemmaDefaults(config);
  config.max_position_embeddings = 131072;
  config.rope.theta = 1e6;
}

// rope_scaling is that of full-attention layers alone; rope_parameters has an object for each kind.
void ReadRopes(ConfigReader& reader, ModelConfig& config) {
  Rope& sliding = config.sliding_rope.emplace(Rope{.theta = 1e4, .scaling = {}});
  reader.RefuseUnless("partial_rotary_factor", 1.0);
  reader.Positive("rope_theta", false, &config.rope.theta);
  reader.Positive("rope_local_base_freq", false, &sliding.theta);
  if (reader.Has("rope_parameters")) {
    const nlohmann::json both = reader.Get("rope_parameters");
    if (!both.is_object()) return reader.Fail("rope_parameters", "an object");
    for (const auto& [kind, object] : both.items()) {
      const std::string name = absl::StrCat("rope_parameters.", kind);
      if (kind != "full_attention" && kind != "sliding_attention") {
        return reader.Update(
            UnsupportedError(name, object, R"("full_attention", "sliding_attention")"));
      }
      if (object.is_null()) continue;
      ReadRopeObject(object, name, config, reader,
                     kind == "full_attention" ? config.rope : sliding);
    }
  }
  if (reader.Has("rope_scaling")) {
    ReadRopeObject(reader.Get("rope_scaling"), "rope_scaling", config, reader, config.rope);
  }
}

void Read(ConfigReader& reader, ModelConfig& config) {
  config.qk_norm = QkNorm::kPerHead;
  ReadGemmaBlock(reader, config);
  // The reference reads this field and does not apply it.
  reader.RefuseUnless("attn_logit_softcapping", nullptr);
  ReadRopes(reader, config);
  int64_t pattern = 6;
  reader.Integer("sliding_window_pattern", false, 1, &pattern);
  ReadLayerTypes(reader, config, [&](int64_t layer) { return (layer + 1) % pattern != 0; });
}

}  // namespace

const Family kGemma3Text = {.model_type = "gemma3_text",
                            .prefix = "Gemma3",
                            .score_prefix = "Gemma3Text",
                            .models = "Gemma 3, text models",
                            .features =
                                "Gemma 2's block with norms of each query and key head, "
                                "two rope bases, a window in most layers",
                            .names = {.attention_output_norm = "post_attention_layernorm",
                                      .mlp_norm = "pre_feedforward_layernorm",
                                      .mlp_output_norm = "post_feedforward_layernorm"},
                            .activation_field = "hidden_activation",
                            .set_defaults = SetDefaults,
                            .read = Read};

}  // namespace rollcall::model
