#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "common/model/lora_config.h"
#include "common/wire/manifest.h"
#include "rollcall/v1/identity.pb.h"

namespace rollcall::generator {

// A whole, verified set of weights, or a whole adapter, in host memory, in the model's canonical
// order.
struct StagedWeights {
  struct Tensor {
    wire::TensorEntry entry;
    std::string bytes;  // row-major, little-endian
  };
  v1::PolicyVersion version;
  std::vector<Tensor> tensors;
  // The tensors are those of this adapter, in its canonical order; nullopt: all of the model's.
  std::optional<model::LoraConfig> adapter;
};

}  // namespace rollcall::generator
