#include "tests/exactness/shapes.h"

#include <nlohmann/json.hpp>

namespace rollcall::exactness {
namespace {

using Json = nlohmann::json;

// Sizes that fill no vector and no panel, grouped heads.
Json Common(const char* model_type, const char* architecture) {
  return {{"model_type", model_type},
          {"architectures", {architecture}},
          {"hidden_size", 60},
          {"intermediate_size", 84},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"vocab_size", 301},
          {"max_position_embeddings", 2304},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000.0},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"tie_word_embeddings", false},
          {"bos_token_id", nullptr},
          {"pad_token_id", nullptr},
          {"eos_token_id", 1}};
}

}  // namespace

std::vector<Shape> Shapes() {
  Json llama = Common("llama", "LlamaForCausalLM");
  llama["head_dim"] = 20;
  llama["mlp_bias"] = false;

  Json qwen2 = Common("qwen2", "Qwen2ForCausalLM");
  qwen2["tie_word_embeddings"] = true;
  qwen2["use_sliding_window"] = false;

  Json qwen3 = Common("qwen3", "Qwen3ForCausalLM");
  qwen3["head_dim"] = 24;
  qwen3["use_sliding_window"] = false;

  Json gemma2 = Common("gemma2", "Gemma2ForCausalLM");
  gemma2.erase("hidden_act");
  gemma2["hidden_activation"] = "gelu_pytorch_tanh";
  gemma2["head_dim"] = 16;
  gemma2["query_pre_attn_scalar"] = 20;
  gemma2["sliding_window"] = 70;
  gemma2["attn_logit_softcapping"] = 50.0;
  gemma2["final_logit_softcapping"] = 30.0;
  gemma2["tie_word_embeddings"] = true;

  Json moe = Common("qwen3_moe", "Qwen3MoeForCausalLM");
  moe["head_dim"] = 16;
  moe["use_sliding_window"] = false;
  moe["num_experts"] = 8;
  moe["num_experts_per_tok"] = 2;
  moe["moe_intermediate_size"] = 44;
  moe["norm_topk_prob"] = true;
  moe["decoder_sparse_step"] = 1;
  moe["mlp_only_layers"] = Json::array();

  return {{"Llama", llama.dump()},
          {"Qwen2", qwen2.dump()},
          {"Qwen3", qwen3.dump()},
          {"Gemma2", gemma2.dump()},
          {"Qwen3Moe", moe.dump()}};
}

}  // namespace rollcall::exactness
