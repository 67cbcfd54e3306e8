#pragma once

#include <span>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "common/model/config_reader.h"
#include "common/model/model_config.h"

namespace rollcall::model {

// Names of a layer's tensors below "model.layers.N.", without ".weight". Null: the family has no
// such tensor.
struct BlockNames {
  const char* attention_norm = "input_layernorm";
  const char* attention_output_norm = nullptr;  // before the residual sum
  const char* mlp_norm = "post_attention_layernorm";
  const char* mlp_output_norm = nullptr;
  const char* query_key_value = nullptr;  // one tensor in place of self_attn.{q,k,v}_proj
  const char* gate_up = nullptr;          // one tensor in place of mlp.{gate,up}_proj
  const char* router = "mlp.gate";
  const char* experts = "mlp.experts";  // <experts>.E.<expert_gate>
  const char* expert_gate = "gate_proj";
  const char* expert_up = "up_proj";
  const char* expert_down = "down_proj";
};

// One model family: how its config.json becomes a ModelConfig and what its tensors are called.
struct Family {
  const char* model_type;
  // Class names are <prefix>ForCausalLM and <score_prefix>For{Sequence,Token}Classification.
  const char* prefix;
  const char* score_prefix;
  const char* models;    // that belong to it, for people
  const char* features;  // what it has beyond Llama's block, for people
  BlockNames names = {};
  const char* activation_field = "hidden_act";
  // The values that absent fields have. Zero for num_kv_heads means num_heads, for head_dim
  // hidden_size / num_heads.
  void (*set_defaults)(ModelConfig& config);
  // Everything but sizes, token ids and the head, which all families read alike (model_config.cc).
  void (*read)(ConfigReader& reader, ModelConfig& config);
};

// The table of all families, by model_type. A further family is one source file and a line there.
std::span<const Family* const> Families();
// Null where there is none.
const Family* FindFamily(std::string_view model_type);

// Pieces that several families read alike.

// rope_theta and rope_scaling, or rope_parameters.
void ReadRope(ConfigReader& reader, ModelConfig& config);
// One object of that kind.
void ReadRopeObject(const nlohmann::json& object, const std::string& name, ModelConfig& config,
                    ConfigReader& errors, Rope& rope);
// attention_bias: of all four projections.
void ReadAttentionBias(ConfigReader& reader, ModelConfig& config);
// sliding_window, for every layer. Null: none; absent: as `config` has it.
void ReadWindowOfAllLayers(ConfigReader& reader, ModelConfig& config);
// Which layers slide: layer_types where it is there, else slides(layer).
void ReadLayerTypes(ConfigReader& reader, ModelConfig& config,
                    absl::FunctionRef<bool(int64_t layer)> slides);
// The same for a family whose config has no layer_types of its own: one that says otherwise is
// refused.
void CheckLayerTypes(ConfigReader& reader, ModelConfig& config);

// use_sliding_window, sliding_window, max_window_layers and layer_types, as in Qwen2 and Qwen3.
void ReadQwenWindow(ConfigReader& reader, ModelConfig& config);
// What Gemma 2 and 3 share.
void SetGemmaDefaults(ModelConfig& config);
void ReadGemmaBlock(ConfigReader& reader, ModelConfig& config);

extern const Family kGemma2, kGemma3Text, kLlama, kMistral, kMixtral, kOlmo2, kPhi3, kQwen2, kQwen3,
    kQwen3Moe, kSmolLm3;

}  // namespace rollcall::model
