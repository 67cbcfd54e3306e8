#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/model_config.h"

namespace rollcall::model {

// What a parameter does in the model.
enum class Part {
  kEmbedding,
  kAttentionNorm,
  kQuery,
  kKey,
  kValue,
  kQueryKeyValue,
  kQueryNorm,
  kKeyNorm,
  kOutput,
  kAttentionOutputNorm,
  kMlpNorm,
  kRouter,
  kGate,
  kUp,
  kGateUp,
  kDown,
  kMlpOutputNorm,
  kFinalNorm,
  kHead,
  kScore,
};

// Whether the part multiplies by vectors: everything but the norms and the embedding.
constexpr bool IsMatrix(Part part) {
  switch (part) {
    case Part::kEmbedding:
    case Part::kAttentionNorm:
    case Part::kQueryNorm:
    case Part::kKeyNorm:
    case Part::kAttentionOutputNorm:
    case Part::kMlpNorm:
    case Part::kMlpOutputNorm:
    case Part::kFinalNorm:
      return false;
    default:
      return true;
  }
}

struct ParameterSpec {
  std::string name;  // as in the checkpoint
  std::vector<int64_t> shape;
  Part part;
  bool bias = false;
  int64_t layer = -1;   // none for those outside the blocks
  int64_t expert = -1;  // none for those outside a mixture of experts
};

// All parameters of a valid configuration in canonical order: embedding, then layer by layer in the
// order of computation (a bias after its weight, experts one after the other), final norm, head.
std::vector<ParameterSpec> ParametersOf(const ModelConfig& config);

}  // namespace rollcall::model
