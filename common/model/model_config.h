#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace rollcall::model {

// How rotary frequencies are stretched beyond the trained context; the formulas are those of
// transformers' modeling_rope_utils.py.
struct RopeScaling {
  enum class Type { kDefault, kLinear, kLlama3 };
  Type type = Type::kDefault;
  double factor = 1.0;                                   // kLinear, kLlama3
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // kLlama3
  int64_t original_max_position_embeddings = 0;          // kLlama3, tokens
};

// What a decoder is: sizes and switches of one block repeated num_layers times. A further model
// family is a further set of switches here, not another block.
struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;                // divides num_heads
  int64_t head_dim = 0;                    // even
  int64_t max_position_embeddings = 2048;  // tokens
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;

  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
  std::vector<int64_t> eos_token_ids;  // may be empty
  double initializer_range = 0.02;
  std::string dtype = "float32";  // of the stored weights: "float32", "bfloat16", "float16"

  // The text that FromJson read, so that a checkpoint is written with its own config.json, byte for
  // byte. Empty for a model made here.
  std::string original_json;

  // Reads a Hugging Face config.json of model_type "llama", in the layout of transformers 4
  // (rope_theta, rope_scaling, torch_dtype) or 5 (rope_parameters, dtype).
  //   INVALID_ARGUMENT  not JSON, or a field is missing, of the wrong type or out of range
  //   UNIMPLEMENTED     a setting that this code does not compute: another model_type, a
  //   quantization_config, biases…
  // Messages are "<file>: <field>: expected …, got …".
  static absl::StatusOr<ModelConfig> FromJson(std::string_view json, std::string_view file);

  // The rules of FromJson for a configuration filled in by hand.
  absl::Status Validate() const;

  // original_json where there is one, else a config.json in the layout of transformers 4, which
  // transformers 5 and everything else reads.
  std::string ToJson() const;

  int64_t ParameterCount() const;
};

// The head_dim / 2 rotary frequencies in radians per position, float32 as the reference has them.
std::vector<float> RopeFrequencies(const ModelConfig& config);

}  // namespace rollcall::model
