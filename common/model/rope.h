#pragma once

#include <cstdint>
#include <vector>

namespace rollcall::model {

// How rotary frequencies are stretched beyond the trained context. The formulas and the names of
// the settings are those of transformers' modeling_rope_utils.py.
struct RopeScaling {
  enum class Type { kDefault, kLinear, kLlama3, kDynamic, kYarn, kLongRope };
  Type type = Type::kDefault;
  double factor = 1.0;                                   // all but kDefault and kLongRope
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // kLlama3
  int64_t original_max_position_embeddings = 0;   // tokens; kLlama3, kDynamic, kYarn, kLongRope
  double beta_fast = 32.0, beta_slow = 1.0;       // kYarn
  bool truncate = true;                           // kYarn: whole dimensions bound the ramp
  double attention_factor = 1.0;                  // of cosines and sines; kYarn, kLongRope
  std::vector<double> short_factor, long_factor;  // kLongRope, one for each frequency
};

// One rotary embedding; a model may have another one for its sliding layers.
struct Rope {
  double theta = 10000.0;
  RopeScaling scaling;

  // Whether the frequencies depend on how long sequences may become. transformers chooses them for
  // each forward by the longest sequence in it, so that a token's logits depend on what comes
  // after it; exact log-probs need one choice, made for the model by its context (see
  // ModelConfig::max_position_embeddings).
  bool DependsOnContext() const {
    return scaling.type == RopeScaling::Type::kDynamic ||
           scaling.type == RopeScaling::Type::kLongRope;
  }
};

// The rotary_dim / 2 frequencies in radians per position for sequences of up to `context` tokens,
// float32 as the reference has them.
std::vector<float> RopeFrequencies(const Rope& rope, int64_t rotary_dim, int64_t context);

}  // namespace rollcall::model
