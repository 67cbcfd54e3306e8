#include "common/tensor/bridge.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/tensor/torch_call.h"

namespace rollcall::tensor {
namespace {

struct Pair {
  wire::DType dtype;
  at::ScalarType type;
};

constexpr Pair kTypes[] = {
    {wire::DType::kFloat32, at::kFloat},  {wire::DType::kBFloat16, at::kBFloat16},
    {wire::DType::kFloat16, at::kHalf},   {wire::DType::kInt64, at::kLong},
    {wire::DType::kInt32, at::kInt},      {wire::DType::kUInt8, at::kByte},
    {wire::DType::kFloat64, at::kDouble}, {wire::DType::kBool, at::kBool},
};

absl::Status CheckLength(wire::DType dtype, std::span<const int64_t> shape,
                         std::string_view bytes) {
  ROLLCALL_ASSIGN_OR_RETURN(const int64_t expected, wire::ByteSize(dtype, shape));
  if (bytes.size() == static_cast<size_t>(expected)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("shape [", absl::StrJoin(shape, ", "), "] of ",
                                                 std::string(wire::Name(dtype)), " takes ",
                                                 expected, " bytes, got ", bytes.size()));
}

}  // namespace

at::ScalarType ScalarTypeOf(wire::DType dtype) {
  for (const Pair& pair : kTypes) {
    if (pair.dtype == dtype) return pair.type;
  }
  std::abort();  // every value of the enumeration is in the table (bridge_test)
}

absl::StatusOr<wire::DType> DTypeOf(at::ScalarType type) {
  for (const Pair& pair : kTypes) {
    if (pair.type == type) return pair.dtype;
  }
  return absl::UnimplementedError(
      absl::StrCat("tensors of type ", c10::toString(type), " cannot be stored or sent"));
}

absl::StatusOr<at::Tensor> TensorFromBytes(wire::DType dtype, std::span<const int64_t> shape,
                                           std::string_view bytes) {
  ROLLCALL_RETURN_IF_ERROR(CheckLength(dtype, shape, bytes));
  return TorchCall([&] {
    at::Tensor tensor = at::empty(at::IntArrayRef(shape.data(), shape.size()),
                                  at::TensorOptions().dtype(ScalarTypeOf(dtype)));
    if (!bytes.empty()) std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
    return tensor;
  });
}

absl::Status FillFromBytes(wire::DType dtype, std::string_view bytes, at::Tensor destination) {
  ROLLCALL_RETURN_IF_ERROR(CheckLength(dtype, destination.sizes(), bytes));
  return TorchCall([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    const bool same_bytes = destination.is_cpu() && destination.is_contiguous() &&
                            destination.scalar_type() == ScalarTypeOf(dtype);
    if (same_bytes) {
      if (!bytes.empty()) std::memcpy(destination.data_ptr(), bytes.data(), bytes.size());
      // Whoever keeps something derived from the values (packed weights) asks the version.
      destination.unsafeGetTensorImpl()->bump_version();
      return absl::OkStatus();
    }
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor staged,
                              TensorFromBytes(dtype, destination.sizes(), bytes));
    destination.copy_(staged);
    return absl::OkStatus();
  });
}

absl::StatusOr<at::Tensor> HostContiguous(const at::Tensor& tensor) {
  return TorchCall([&] { return tensor.detach().cpu().contiguous(); });
}

std::string_view BytesOf(const at::Tensor& tensor) {
  if (!tensor.is_cpu() || !tensor.is_contiguous()) std::abort();
  return {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
}

}  // namespace rollcall::tensor
