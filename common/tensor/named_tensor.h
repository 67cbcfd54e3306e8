#pragma once

#include <ATen/core/TensorBody.h>

#include <string>

namespace rollcall::tensor {

// A tensor under the name that files and contracts give it, such as
// "model.layers.0.mlp.up_proj.weight".
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

}  // namespace rollcall::tensor
