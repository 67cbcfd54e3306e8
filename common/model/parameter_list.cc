#include "common/model/parameter_list.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/families/family.h"

namespace rollcall::model {
namespace {

class ListBuilder {
 public:
  explicit ListBuilder(const ModelConfig& config)
      : config_(config), names_(FindFamily(config.family)->names) {}

  std::vector<ParameterSpec> Build() && {
    const int64_t hidden = config_.hidden_size;
    Add("model.embed_tokens", Part::kEmbedding, {config_.vocab_size, hidden}, false);
    for (layer_ = 0; layer_ < config_.num_layers; ++layer_) {
      Norm(names_.attention_norm, Part::kAttentionNorm, hidden);
      AddAttention();
      Norm(names_.attention_output_norm, Part::kAttentionOutputNorm, hidden);
      Norm(names_.mlp_norm, Part::kMlpNorm, hidden);
      config_.Layer(layer_).experts ? AddExperts() : AddMlp();
      Norm(names_.mlp_output_norm, Part::kMlpOutputNorm, hidden);
    }
    layer_ = -1;
    Add("model.norm", Part::kFinalNorm, {hidden}, false);
    if (config_.head != Head::kLanguageModel) {
      Add("score", Part::kScore, {1, hidden}, config_.score_bias);
    } else if (!config_.tie_word_embeddings) {
      Add("lm_head", Part::kHead, {config_.vocab_size, hidden}, false);
    }
    return std::move(list_);
  }

 private:
  void Add(const std::string& module, Part part, std::vector<int64_t> shape, bool bias) {
    const int64_t rows = shape[0];
    list_.push_back(
        {absl::StrCat(module, ".weight"), std::move(shape), part, false, layer_, expert_});
    if (bias) list_.push_back({absl::StrCat(module, ".bias"), {rows}, part, true, layer_, expert_});
  }

  std::string Module(const char* name) const {
    return absl::StrCat("model.layers.", layer_, ".", name);
  }

  void Norm(const char* name, Part part, int64_t width) {
    if (name != nullptr) Add(Module(name), part, {width}, false);
  }

  void AddAttention() {
    const int64_t hidden = config_.hidden_size, dim = config_.head_dim;
    const int64_t query = config_.num_heads * dim, key = config_.num_kv_heads * dim;
    const bool bias = config_.qkv_bias;
    if (names_.query_key_value != nullptr) {
      Add(Module(names_.query_key_value), Part::kQueryKeyValue, {query + 2 * key, hidden}, bias);
    } else {
      Add(Module("self_attn.q_proj"), Part::kQuery, {query, hidden}, bias);
      Add(Module("self_attn.k_proj"), Part::kKey, {key, hidden}, bias);
      Add(Module("self_attn.v_proj"), Part::kValue, {key, hidden}, bias);
    }
    Add(Module("self_attn.o_proj"), Part::kOutput, {hidden, query}, config_.output_bias);
    if (config_.qk_norm == QkNorm::kNone) return;
    const bool whole = config_.qk_norm == QkNorm::kWholeProjection;
    Norm("self_attn.q_norm", Part::kQueryNorm, whole ? query : dim);
    Norm("self_attn.k_norm", Part::kKeyNorm, whole ? key : dim);
  }

  void AddMlp() {
    const int64_t hidden = config_.hidden_size, inner = config_.intermediate_size;
    if (names_.gate_up != nullptr) {
      Add(Module(names_.gate_up), Part::kGateUp, {2 * inner, hidden}, config_.mlp_bias);
    } else {
      Add(Module("mlp.gate_proj"), Part::kGate, {inner, hidden}, config_.mlp_bias);
      Add(Module("mlp.up_proj"), Part::kUp, {inner, hidden}, config_.mlp_bias);
    }
    Add(Module("mlp.down_proj"), Part::kDown, {hidden, inner}, config_.mlp_bias);
  }

  void AddExperts() {
    const int64_t hidden = config_.hidden_size, inner = config_.expert_intermediate_size;
    Add(Module(names_.router), Part::kRouter, {config_.num_experts, hidden}, false);
    for (expert_ = 0; expert_ < config_.num_experts; ++expert_) {
      const std::string expert = absl::StrCat(Module(names_.experts), ".", expert_, ".");
      Add(expert + names_.expert_gate, Part::kGate, {inner, hidden}, false);
      Add(expert + names_.expert_up, Part::kUp, {inner, hidden}, false);
      Add(expert + names_.expert_down, Part::kDown, {hidden, inner}, false);
    }
    expert_ = -1;
  }

  const ModelConfig& config_;
  const BlockNames& names_;
  int64_t layer_ = -1, expert_ = -1;
  std::vector<ParameterSpec> list_;
};

}  // namespace

std::vector<ParameterSpec> ParametersOf(const ModelConfig& config) {
  return ListBuilder(config).Build();
}

}  // namespace rollcall::model
