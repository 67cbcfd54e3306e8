#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/wire/dtype.h"

namespace rollcall::learner {

// One version's weights as they go over the wire: the compute-dtype copy in Hugging Face names and
// the model's canonical order. Immutable and shared: publishing goes on in the background while the
// next step trains, so the bytes are a copy of their own.
struct WeightSnapshot {
  struct Tensor {
    std::string name;
    wire::DType dtype;
    std::vector<uint64_t> shape;
    std::vector<std::byte> bytes;  // little endian, row major
  };
  // The tensors are those of a low-rank adapter (AdapterContent).
  struct Adapter {
    std::string base_manifest_hash;  // 32 bytes
    std::string config;              // canonical
  };
  uint64_t step = 0;
  std::vector<Tensor> tensors;
  std::optional<Adapter> adapter;  // nullopt: they are all of the model's
};

using WeightSnapshotPtr = std::shared_ptr<const WeightSnapshot>;

}  // namespace rollcall::learner
