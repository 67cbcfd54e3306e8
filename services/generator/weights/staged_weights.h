#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "common/wire/manifest.h"
#include "rollcall/v1/identity.pb.h"

namespace rollcall::generator {

// A whole, verified set of weights in host memory, in the model's canonical order.
struct StagedWeights {
  struct Tensor {
    wire::TensorEntry entry;
    std::string bytes;  // row-major, little-endian
  };
  v1::PolicyVersion version;
  std::vector<Tensor> tensors;
};

}  // namespace rollcall::generator
