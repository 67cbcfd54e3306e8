#include "common/model/kernel_choice.h"

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/model/kernels/kernels.h"

namespace rollcall::model {
namespace {

using kernels::InstructionSet;

std::optional<InstructionSet> SetOf(v1::KernelIsa isa) {
  switch (isa) {
    case v1::KERNEL_ISA_PORTABLE:
      return InstructionSet::kPortable;
    case v1::KERNEL_ISA_AVX2:
      return InstructionSet::kAvx2;
    case v1::KERNEL_ISA_AVX512:
      return InstructionSet::kAvx512;
    case v1::KERNEL_ISA_AVX512_BF16:
      return InstructionSet::kAvx512Bf16;
    default:
      return std::nullopt;
  }
}

InstructionSet Widest() {
  InstructionSet widest = InstructionSet::kPortable;
  for (const InstructionSet set : kernels::kInstructionSets) {
    if (kernels::KernelsFor(set) != nullptr) widest = set;
  }
  return widest;
}

std::string NamesOfAll() {
  std::string names;
  for (const InstructionSet set : kernels::kInstructionSets) {
    const kernels::KernelTable* table = kernels::KernelsFor(set);
    if (table == nullptr) continue;
    absl::StrAppend(&names, names.empty() ? "" : ", ", table->instruction_set);
  }
  return names;
}

}  // namespace

absl::Status ChooseKernels(const v1::KernelsSection& section) {
  const v1::KernelIsa isa = section.isa();
  const bool any = isa == v1::KERNEL_ISA_AUTO || isa == v1::KERNEL_ISA_UNSPECIFIED;
  const std::optional<InstructionSet> set = any ? Widest() : SetOf(isa);
  if (!set) {
    return absl::InvalidArgumentError(absl::StrCat("kernels.isa: unknown value ", isa));
  }
  if (!kernels::UseInstructionSet(*set)) {
    return absl::FailedPreconditionError(
        absl::StrCat("kernels.isa: this processor or build has no ", kernels::NameOf(*set),
                     "; it has ", NamesOfAll()));
  }
  LogInfo("kernels", {{"instruction_set", kernels::Kernels().instruction_set},
                      {"arithmetic", kernels::Kernels().arithmetic},
                      {"pinned", !any}});
  return absl::OkStatus();
}

}  // namespace rollcall::model
