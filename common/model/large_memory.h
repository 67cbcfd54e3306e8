#pragma once

#include <ATen/core/TensorBody.h>

namespace rollcall::model {

// Zeros of their own mapping, on huge pages where the system gives them: memory that is read from
// one end to the other at every step costs fewer page walks then. The system provides the pages when
// they are first touched, so a large tensor takes neither memory nor time before it is used. On other
// devices, and where mapping fails, plain zeros.
at::Tensor LargeZeros(at::IntArrayRef shape, const at::TensorOptions& options);

}  // namespace rollcall::model
