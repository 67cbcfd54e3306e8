#pragma once

namespace rollcall::model {

// Which code computes the operations. Only kKernels is exact (see kernels/kernels.h).
enum class Backend {
  kKernels,  // our CPU kernels
  kAten,  // plain LibTorch operations: every other device, and the reference that tests compare the
          // kernels with
};

}  // namespace rollcall::model
