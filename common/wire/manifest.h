#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/wire/dtype.h"
#include "common/wire/sha256.h"

namespace rollcall::wire {

// One tensor of a set of weights, without its values.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;  // every dimension >= 0
  Sha256Digest sha256{};       // of the tensor's bytes: row-major, little-endian

  friend bool operator==(const TensorEntry&, const TensorEntry&) = default;
};

// The identity of a set of weights, PolicyVersion.manifest_hash: SHA-256 over, for each tensor in
// the given (canonical) order, u32 length of the name, the name, u8 code of the dtype, u32 rank,
// each dimension as u64, and the tensor's 32 hash bytes; all integers little-endian. Every variable
// part is preceded by its length, so different manifests are different byte strings.
Sha256Digest ManifestHash(std::span<const TensorEntry> tensors);

}  // namespace rollcall::wire
