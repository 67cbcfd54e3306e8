#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
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

// The identity of a set of weights with a low-rank adapter, PolicyVersion.manifest_hash of both
// together: SHA-256 over "rollcall adapter\n", the base's manifest hash, the manifest hash of the
// adapter's tensors, the configuration's length as u32 and the configuration
// (AdapterContent.adapter_config). The leading text keeps it apart from every ManifestHash, whose
// first four bytes are a name's length.
Sha256Digest AdaptedManifestHash(const Sha256Digest& base, const Sha256Digest& adapter,
                                 std::string_view adapter_config);

}  // namespace rollcall::wire
