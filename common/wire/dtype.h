#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace rollcall::wire {

// Element type of a tensor outside LibTorch: on the wire, in files and in hashes. The values are
// those of rollcall.v1.DataType and never change: they are part of the manifest hash.
enum class DType : uint8_t {
  kFloat32 = 1,
  kBFloat16 = 2,
  kFloat16 = 3,
  kInt64 = 4,
  kInt32 = 5,
  kUInt8 = 6,
  kFloat64 = 7,
  kBool = 8,
};

// Bytes of one element.
size_t SizeOf(DType dtype);

// "float32", "bfloat16", …: how configuration, messages and logs write it.
std::string_view Name(DType dtype);
std::optional<DType> DTypeFromName(std::string_view name);

// "F32", "BF16", …: how a safetensors header writes it.
std::string_view SafetensorsName(DType dtype);
std::optional<DType> DTypeFromSafetensorsName(std::string_view name);

// From the number of rollcall.v1.DataType; nullopt for a number that names no type.
std::optional<DType> DTypeFromCode(int code);

// Bytes of a dense tensor; a scalar has an empty shape. INVALID_ARGUMENT for a negative dimension
// or a size that does not fit int64.
absl::StatusOr<int64_t> ByteSize(DType dtype, std::span<const int64_t> shape);

}  // namespace rollcall::wire
