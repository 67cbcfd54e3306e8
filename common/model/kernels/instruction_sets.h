#pragma once

// The tables that kernels.cc chooses from; each is defined in a file compiled for its instruction
// set.

#include "common/model/kernels/kernels.h"

namespace rollcall::model::kernels {

extern const KernelTable kPortableTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
extern const KernelTable kAvx512Bf16Table;
#endif

}  // namespace rollcall::model::kernels
