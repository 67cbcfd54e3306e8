#include "common/wire/dtype.h"

#include <array>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace rollcall::wire {
namespace {

struct Row {
  DType dtype;
  size_t size;
  std::string_view name;
  std::string_view safetensors_name;
};

// In the order of the codes, from 1.
constexpr std::array<Row, 8> kRows = {{
    {DType::kFloat32, 4, "float32", "F32"},
    {DType::kBFloat16, 2, "bfloat16", "BF16"},
    {DType::kFloat16, 2, "float16", "F16"},
    {DType::kInt64, 8, "int64", "I64"},
    {DType::kInt32, 4, "int32", "I32"},
    {DType::kUInt8, 1, "uint8", "U8"},
    {DType::kFloat64, 8, "float64", "F64"},
    {DType::kBool, 1, "bool", "BOOL"},
}};

const Row& RowOf(DType dtype) { return kRows.at(static_cast<size_t>(dtype) - 1); }

std::optional<DType> Find(std::string_view Row::*column, std::string_view name) {
  for (const Row& row : kRows) {
    if (row.*column == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace

size_t SizeOf(DType dtype) { return RowOf(dtype).size; }
std::string_view Name(DType dtype) { return RowOf(dtype).name; }
std::string_view SafetensorsName(DType dtype) { return RowOf(dtype).safetensors_name; }

std::optional<DType> DTypeFromName(std::string_view name) { return Find(&Row::name, name); }
std::optional<DType> DTypeFromSafetensorsName(std::string_view name) {
  return Find(&Row::safetensors_name, name);
}

std::optional<DType> DTypeFromCode(int code) {
  if (code < 1 || code > static_cast<int>(kRows.size())) return std::nullopt;
  return kRows[static_cast<size_t>(code) - 1].dtype;
}

absl::StatusOr<int64_t> ByteSize(DType dtype, std::span<const int64_t> shape) {
  int64_t bytes = static_cast<int64_t>(SizeOf(dtype));
  bool fits = true;
  for (const int64_t dimension : shape) {
    if (dimension < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape [", absl::StrJoin(shape, ", "), "]: negative dimension"));
    }
    fits = !__builtin_mul_overflow(bytes, dimension, &bytes) && fits;
  }
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape [", absl::StrJoin(shape, ", "), "]: too many bytes for int64"));
  }
  return bytes;
}

}  // namespace rollcall::wire
