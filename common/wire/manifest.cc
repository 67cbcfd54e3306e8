#include "common/wire/manifest.h"

#include <string_view>

#include "common/wire/little_endian.h"

namespace rollcall::wire {

Sha256Digest ManifestHash(std::span<const TensorEntry> tensors) {
  Sha256 sha256;
  std::string bytes;
  for (const TensorEntry& tensor : tensors) {
    bytes.clear();
    AppendLittleEndian(static_cast<uint32_t>(tensor.name.size()), &bytes);
    bytes += tensor.name;
    AppendLittleEndian(static_cast<uint8_t>(tensor.dtype), &bytes);
    AppendLittleEndian(static_cast<uint32_t>(tensor.shape.size()), &bytes);
    for (const int64_t dimension : tensor.shape) {
      AppendLittleEndian(static_cast<uint64_t>(dimension), &bytes);
    }
    bytes += ToBytes(tensor.sha256);
    sha256.Update(bytes);
  }
  return sha256.Finish();
}

Sha256Digest AdaptedManifestHash(const Sha256Digest& base, const Sha256Digest& adapter,
                                 std::string_view adapter_config) {
  std::string bytes = "rollcall adapter\n";
  bytes += ToBytes(base);
  bytes += ToBytes(adapter);
  AppendLittleEndian(static_cast<uint32_t>(adapter_config.size()), &bytes);
  bytes += adapter_config;
  return Sha256Of(bytes);
}

}  // namespace rollcall::wire
