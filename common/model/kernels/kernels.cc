#include "common/model/kernels/kernels.h"

#include <atomic>

#include "common/model/kernels/instruction_sets.h"

namespace rollcall::model::kernels {
namespace {

// Pieces of a scratch are rounded up to kLanes; a dozen of them at most.
constexpr int64_t kCarvingSlack = 16 * kLanes;
// Blocks of a packed sequence (attention_impl.h).
constexpr int64_t kPackedBlock = 32;

const KernelTable* Widest() {
  const KernelTable* widest = &kPortableTable;
  for (const InstructionSet set : kInstructionSets) {
    if (const KernelTable* table = KernelsFor(set); table != nullptr) widest = table;
  }
  return widest;
}

std::atomic<const KernelTable*>& InUse() {
  static std::atomic<const KernelTable*> table{Widest()};
  return table;
}

#if defined(__x86_64__)
bool RunsAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif

}  // namespace

const KernelTable* KernelsFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return &kPortableTable;
    case InstructionSet::kAvx2:
#if defined(__x86_64__)
      if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kAvx2Table;
#endif
      return nullptr;
    case InstructionSet::kAvx512:
#if defined(__x86_64__)
      if (RunsAvx512()) return &kAvx512Table;
#endif
      return nullptr;
    case InstructionSet::kAvx512Bf16:
#if defined(__x86_64__)
      if (RunsAvx512() && __builtin_cpu_supports("avx512bf16")) return &kAvx512Bf16Table;
#endif
      return nullptr;
  }
  return nullptr;
}

const char* NameOf(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return "portable";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "";
}

const KernelTable& Kernels() { return *InUse().load(std::memory_order_relaxed); }

bool UseInstructionSet(InstructionSet set) {
  const KernelTable* table = KernelsFor(set);
  if (table != nullptr) UseKernels(*table);
  return table != nullptr;
}

void UseKernels(const KernelTable& table) { InUse().store(&table, std::memory_order_relaxed); }

int64_t PackedAttentionScratch(const AttentionShape& shape, int64_t n, bool backward) {
  const int64_t rows = TileTokens(shape) * (shape.heads / shape.kv_heads);
  const int64_t head = PaddedHead(shape.head_dim), padded = RoundUp(n, kPackedBlock);
  const int64_t per_key = backward ? 5 * head : 2 * head;
  const int64_t per_row = backward ? 5 * head + 2 * padded : 2 * head + padded;
  const int64_t slope = backward && shape.softcap != 0 ? padded : 0;
  return padded * per_key + rows * per_row + slope + kCarvingSlack;
}

int64_t PagedAttentionScratch(const AttentionShape& shape, int64_t n) {
  const int64_t rows = TileTokens(shape) * (shape.heads / shape.kv_heads);
  return rows * (2 * PaddedHead(shape.head_dim) + RoundUp(n, kLanes)) + kCarvingSlack;
}

}  // namespace rollcall::model::kernels
