#pragma once

#include <ATen/core/TensorBody.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/wire/dtype.h"

namespace rollcall::tensor {

// Between torch-free bytes (row-major, little-endian, of any alignment) and tensors. The only place
// that knows both.

at::ScalarType ScalarTypeOf(wire::DType dtype);

// UNIMPLEMENTED for types that have no place in files or messages (complex, quantised).
absl::StatusOr<wire::DType> DTypeOf(at::ScalarType type);

// A new CPU tensor of this dtype and shape holding a copy of `bytes`. INVALID_ARGUMENT: a negative
// dimension, or a length that is not what dtype and shape take.
absl::StatusOr<at::Tensor> TensorFromBytes(wire::DType dtype, std::span<const int64_t> shape,
                                           std::string_view bytes);

// Fills `destination`, in place and outside autograd (its version counter moves), with `bytes` of
// `dtype`, converted to its own dtype and moved to its device. INVALID_ARGUMENT: the bytes are not
// as many as destination's elements of `dtype`.
absl::Status FillFromBytes(wire::DType dtype, std::string_view bytes, at::Tensor destination);

// `tensor` on the CPU, contiguous and detached: itself where it is that already. BytesOf it are its
// wire bytes.
absl::StatusOr<at::Tensor> HostContiguous(const at::Tensor& tensor);

// The bytes of a contiguous CPU tensor; valid as long as its storage. CHECKs both.
std::string_view BytesOf(const at::Tensor& tensor);

}  // namespace rollcall::tensor
