#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"

namespace rollcall::model {

// A low-rank adapter's settings: each target matrix W acts as W + Scale() B A (LoRA, arXiv
// 2106.09685, equation 3; with rslora rsLoRA, arXiv 2312.03732).
struct LoraConfig {
  int64_t r = 0;
  double alpha = 16;
  bool rslora = false;
  // Ends of the names of the matrices that are adapted, as PEFT matches them: "q_proj",
  // "mlp.down_proj", "model.layers.3.self_attn.v_proj". Empty: every linear layer of attention and
  // MLP.
  std::vector<std::string> target_modules;
  // The base model's name or path, kept from file to file; no part of what the adapter computes.
  std::string base_model;

  // alpha / r, or alpha / sqrt(r).
  double Scale() const;
  // Of what the adapter computes.
  bool SameFunction(const LoraConfig& other) const;
};

// One tensor of an adapter.
struct AdapterParameter {
  enum class Role {
    kDown,   // A: [r, in]
    kUp,     // B: [out, r]
    kWhole,  // the head of a reward or value model, trained whole beside the matrices
  };
  std::string name;  // as PEFT stores it: "base_model.model.<module>.lora_A.weight"
  std::vector<int64_t> shape;
  Role role;
  size_t of;  // index into ParametersOf: what it adapts, or is
};

// `lora` with its targets checked against the model, sorted, each once, and named where there were
// none. INVALID_ARGUMENT: r below 1 or above every target's own rank, alpha no positive number, a target that names nothing of the
// model; UNIMPLEMENTED: one that names something else than a linear layer of attention or MLP, such
// as the head, an embedding or an expert. Messages start with "r", "alpha" or "target_modules".
absl::StatusOr<LoraConfig> ResolveLora(LoraConfig lora, const ModelConfig& config);

// All tensors of an adapter that ResolveLora returned, in canonical order: for each adapted matrix,
// in the order of ParametersOf, A and B; a score's head at the end.
std::vector<AdapterParameter> AdapterParametersOf(const ModelConfig& config,
                                                  const LoraConfig& lora);

}  // namespace rollcall::model
