#include "common/model/random_config.h"

#include <string>
#include <vector>

#include "common/model/families/family.h"

namespace rollcall::model::testing {
namespace {

using Json = nlohmann::json;

class ConfigDrawer {
 public:
  ConfigDrawer(const std::string& model_type, PhiloxStream& random)
      : family_(*FindFamily(model_type)), random_(random), v5_(Flip()) {
    json_["model_type"] = model_type;
  }

  Json Draw() && {
    DrawSizes();
    DrawHead();
    DrawRope();
    DrawWindow();
    DrawSwitches();
    return std::move(json_);
  }

 private:
  bool Flip() { return random_.Below(2) == 0; }
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_.Below(high - low + 1));
  }
  template <typename T>
  T OneOf(const std::vector<T>& choices) {
    return choices[random_.Below(choices.size())];
  }
  bool Is(const char* type) const { return json_["model_type"] == type; }
  bool IsGemma() const { return Is("gemma2") || Is("gemma3_text"); }

  void DrawSizes() {
    const int64_t kv_heads = Between(1, 3), head_dim = 2 * Between(2, 12);
    const int64_t heads = kv_heads * OneOf<int64_t>({1, 2, 3, 5});
    json_["num_attention_heads"] = heads;
    json_["num_key_value_heads"] = kv_heads;
    // Some families have no head_dim of their own.
    const bool own = !Is("phi3") && !Is("olmo2") && !Is("qwen2") && !Is("smollm3");
    json_["hidden_size"] = own ? Between(5, 70) : heads * head_dim;
    if (own) json_["head_dim"] = head_dim;
    head_dim_ = head_dim;
    json_["intermediate_size"] = Between(3, 90);
    json_["num_hidden_layers"] = layers_ = Between(1, 3);
    json_["vocab_size"] = Between(20, 90);
    json_["max_position_embeddings"] = 64;
    json_["rms_norm_eps"] = OneOf<double>({1e-6, 1e-3});
    json_["tie_word_embeddings"] = Flip();
    json_["eos_token_id"] = 1;
    json_["bos_token_id"] = nullptr;
    json_["pad_token_id"] = nullptr;
  }

  void DrawHead() {
    const uint64_t kind = random_.Below(6);
    const std::string prefix = kind > 1 ? family_.prefix : family_.score_prefix;
    const char* suffix = kind == 0   ? "ForSequenceClassification"
                         : kind == 1 ? "ForTokenClassification"
                                     : "ForCausalLM";
    json_["architectures"] = Json::array({prefix + suffix});
    if (kind < 2) json_["id2label"] = {{"0", "LABEL_0"}};
  }

  Json RopeObject(int64_t rotary_dim) {
    std::vector<std::string> types = {"default", "linear", "dynamic", "yarn", "llama3", "longrope"};
    if (Is("phi3")) types = {"default", "longrope"};
    const auto type = OneOf(types);
    Json rope = {{v5_ || Flip() ? "rope_type" : "type", type}};
    if (type != "default" && type != "longrope") rope["factor"] = OneOf<double>({1.5, 4.0});
    if (type == "llama3") rope.update({{"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}});
    if (type == "llama3" || type == "yarn") rope["original_max_position_embeddings"] = 16;
    if (type == "longrope") {
      rope["original_max_position_embeddings"] = 32;
      if (Is("phi3")) json_["original_max_position_embeddings"] = 32;
      for (const char* list : {"short_factor", "long_factor"}) {
        rope[list] = Json::array();
        for (int64_t i = 0; i < rotary_dim / 2; ++i) rope[list].push_back(1.0 + random_.Uniform());
      }
    }
    return rope;
  }

  void DrawRope() {
    int64_t rotary_dim = head_dim_;
    if (Is("phi3") && head_dim_ % 4 == 0 && Flip()) {
      json_["partial_rotary_factor"] = 0.5;
      rotary_dim /= 2;
    }
    const double theta = OneOf<double>({100.0, 10000.0, 1e6});
    Json rope = RopeObject(rotary_dim);
    if (v5_) {
      rope["rope_theta"] = theta;
      json_["rope_parameters"] = rope;
      if (Is("gemma3_text")) {
        json_["rope_parameters"] = {
            {"full_attention", rope},
            {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 50.0}}}};
      }
    } else {
      json_["rope_theta"] = theta;
      json_["rope_scaling"] = Flip() ? Json() : rope;
      if (Is("gemma3_text")) json_["rope_local_base_freq"] = 50.0;
    }
    if (Is("smollm3")) {
      json_["no_rope_layers"] = Json::array();
      for (int64_t i = 0; i < layers_; ++i) json_["no_rope_layers"].push_back(Flip() ? 1 : 0);
    }
  }

  void DrawWindow() {
    json_["sliding_window"] = OneOf<int64_t>({1, 2, 5, 16, 19, 33, 200});
    if (Is("mistral") || Is("mixtral") || Is("phi3")) {
      if (random_.Below(3) == 0) json_["sliding_window"] = nullptr;
      return;
    }
    const bool on_request = Is("qwen2") || Is("qwen3") || Is("qwen3_moe") || Is("smollm3");
    if (on_request) json_["use_sliding_window"] = Flip();
    if (Is("qwen2") || Is("qwen3")) json_["max_window_layers"] = Between(0, layers_);
    if (Is("gemma3_text")) json_["sliding_window_pattern"] = Between(1, 3);
    if (!v5_ || !IsGemma()) return;
    json_["layer_types"] = Json::array();
    for (int64_t i = 0; i < layers_; ++i) {
      json_["layer_types"].push_back(Flip() ? "full_attention" : "sliding_attention");
    }
  }

  void DrawSwitches() {
    if (!Is("phi3")) json_["attention_bias"] = Flip();
    if (Is("llama") || Is("smollm3")) json_["mlp_bias"] = Flip();
    if (IsGemma()) json_["query_pre_attn_scalar"] = Between(3, 30);
    if (IsGemma()) json_["final_logit_softcapping"] = Flip() ? Json(6.0) : Json();
    if (Is("gemma2")) json_["attn_logit_softcapping"] = Flip() ? Json(3.0) : Json();
    if (!IsGemma() && Flip()) json_["hidden_act"] = "gelu_pytorch_tanh";
    if (Is("mixtral")) {
      json_["num_local_experts"] = Between(1, 9);
      json_["num_experts_per_tok"] = Between(1, json_["num_local_experts"]);
    }
    if (Is("qwen3_moe")) {
      json_["num_experts"] = Between(1, 9);
      json_["num_experts_per_tok"] = Between(1, json_["num_experts"]);
      json_["moe_intermediate_size"] = Between(3, 40);
      json_["norm_topk_prob"] = Flip();
      json_["decoder_sparse_step"] = Between(1, 2);
      if (Flip()) json_["mlp_only_layers"] = {0};
    }
  }

  const Family& family_;
  PhiloxStream& random_;
  const bool v5_;
  int64_t head_dim_ = 0, layers_ = 0;
  Json json_;
};

}  // namespace

nlohmann::json RandomConfigJson(const std::string& model_type, PhiloxStream& random) {
  return ConfigDrawer(model_type, random).Draw();
}

}  // namespace rollcall::model::testing
