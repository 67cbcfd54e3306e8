#include "common/model/kernels/instruction_sets.h"
#include "common/model/kernels/table_impl.h"

namespace rollcall::model::kernels {

const KernelTable kAvx512Bf16Table = MakeTable("avx512_bf16", "cpu-fma");

}  // namespace rollcall::model::kernels
