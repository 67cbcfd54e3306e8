#include "common/model/kernels/instruction_sets.h"
#include "common/model/kernels/table_impl.h"

namespace rollcall::model::kernels {

const KernelTable kPortableTable = MakeTable("portable", "cpu-portable");

}  // namespace rollcall::model::kernels
