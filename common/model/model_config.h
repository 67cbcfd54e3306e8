#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/kernels/arguments.h"
#include "common/model/rope.h"

namespace rollcall::model {

// What stands on the last hidden state.
enum class Head {
  kLanguageModel,  // …ForCausalLM: logits over the vocabulary
  kSequenceScore,  // …ForSequenceClassification with one label: a reward, read at the last token
  kTokenScore,     // …ForTokenClassification with one label: a value for each token
};

// RMSNorm of queries and keys before rotation.
enum class QkNorm { kNone, kPerHead, kWholeProjection };

// Where one layer differs from the others.
struct LayerOptions {
  bool sliding =
      false;  // sees the last sliding_window tokens, and uses sliding_rope if there is one
  bool rotates = true;
  bool experts = false;  // a mixture of experts in place of the MLP
};

// What a decoder is: sizes and switches of one block repeated num_layers times. A model family is a
// set of values of these (families/family.h), not another block.
struct ModelConfig {
  std::string family = "llama";  // config.json's model_type; decides the tensors' names
  Head head = Head::kLanguageModel;

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  // divides num_heads
  int64_t head_dim = 0;      // even
  // The longest sequence, tokens. Where the rope depends on the context (Rope::DependsOnContext),
  // no position may be at or beyond it, and it decides the frequencies. FromJson then sets it to
  // the length up to which every sequence has the same ones in transformers; see SetContext.
  int64_t max_position_embeddings = 2048;
  int64_t longest_context = 0;  // that UseContext may ask for, tokens; 0: max_position_embeddings

  double rms_norm_eps = 1e-6;
  bool unit_offset_norm = false;  // norms multiply by 1 + weight
  kernels::Activation activation = kernels::Activation::kSilu;
  double embedding_scale = 1.0;
  bool tie_word_embeddings = false;
  bool score_bias = false;  // of a kTokenScore head

  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  double attention_scale = 0.0;    // of the scores; 0: 1 / sqrt(head_dim)
  double attention_softcap = 0.0;  // 0: none
  double final_softcap = 0.0;      // of the logits; 0: none
  Rope rope;
  std::optional<Rope> sliding_rope;  // of sliding layers, where they have one of their own
  int64_t rotary_dim = 0;            // rotated elements of each head; 0: head_dim
  int64_t sliding_window = 0;        // tokens, the query's own included; 0: no layer slides
  std::vector<LayerOptions> layers;  // num_layers of them, or empty: LayerOptions{} for all

  int64_t num_experts = 0;
  int64_t experts_per_token = 0;
  int64_t expert_intermediate_size = 0;
  bool normalize_expert_weights = false;  // those of a token's experts sum to one

  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
  std::vector<int64_t> eos_token_ids;  // may be empty
  double initializer_range = 0.02;
  std::string dtype = "float32";  // of the stored weights: "float32", "bfloat16", "float16"

  // The text that FromJson read, so that a checkpoint is written with its own config.json, byte for
  // byte. Empty for a model made here.
  std::string original_json;

  // Reads a Hugging Face config.json of a family in families/, in the layout of transformers 4
  // (rope_theta, rope_scaling, torch_dtype) or 5 (rope_parameters, layer_types, dtype). Fields that
  // are absent have the family's default in transformers.
  //   INVALID_ARGUMENT  not JSON, or a field is missing, of the wrong type or out of range
  //   UNIMPLEMENTED     a setting that this code does not compute: another model_type, a
  //   quantization_config, several labels…
  // Messages are "<file>: <field>: expected …, got …".
  static absl::StatusOr<ModelConfig> FromJson(std::string_view json, std::string_view file);

  // The rules of FromJson for a configuration filled in by hand.
  absl::Status Validate() const;

  // original_json where there is one, else a config.json in the layout of transformers 4, which
  // transformers 5 and everything else reads. Without original_json the model must be what a
  // "llama" language model can be.
  std::string ToJson() const;

  // Sequences of up to `tokens` tokens: for ropes that depend on the context, their frequencies are
  // then what transformers has for a sequence of exactly that length.
  void SetContext(int64_t tokens) { max_position_embeddings = tokens; }
  // SetContext as a run's settings ask for it; 0 leaves the context as it is. INVALID_ARGUMENT:
  // more than the model is made for.
  absl::Status UseContext(int64_t tokens);
  bool RopeDependsOnContext() const {
    return rope.DependsOnContext() || (sliding_rope && sliding_rope->DependsOnContext());
  }

  LayerOptions Layer(int64_t index) const {
    return layers.empty() ? LayerOptions{} : layers[index];
  }
  int64_t RotaryDim() const { return rotary_dim == 0 ? head_dim : rotary_dim; }

  // OK where the model gives logits; UNIMPLEMENTED says that it is a reward or value model.
  absl::Status RequireLanguageModel() const;

  int64_t ParameterCount() const;
  // Elements that one token takes in the KV cache, all layers together.
  int64_t KvElementsPerToken() const;
};

}  // namespace rollcall::model
