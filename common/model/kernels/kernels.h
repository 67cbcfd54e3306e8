#pragma once

// The model's CPU arithmetic: plain functions over raw pointers, compiled once per instruction set
// and chosen at run time. They know nothing of LibTorch, allocate nothing and start no threads;
// every call works on a range of rows, panels or heads, and the caller spreads ranges over threads.
//
// The invariant of this folder: each output row is a pure function of its own inputs. Which rows
// share a call, how a range is cut, how many threads run and how the KV cache is blocked never
// change a bit. The reduction orders that make it so are written at each argument struct
// (arguments.h); raise kKernelRevision when one of them changes.

#include <cstdint>
#include <string_view>

#include "common/model/kernels/arguments.h"
#include "common/model/kernels/expert_arguments.h"

namespace rollcall::model::kernels {

inline constexpr uint32_t kKernelRevision = 2;

// All kernels of one instruction set. Ranges are half-open; scratch is 64-byte aligned.
struct KernelTable {
  const char* instruction_set;
  // For the numerics fingerprint: "cpu-fma" of every set with fused multiply-add, which all give the
  // same bits, and "cpu-portable" (no fused multiply-add, other bits).
  const char* arithmetic;
  void (*pack)(const PackArgs&, int64_t panel_begin, int64_t panel_end);
  void (*gemm)(const GemmArgs&, const GemmRange&, float* scratch);
  void (*rms_norm)(const RmsNormArgs&, int64_t row_begin, int64_t row_end);
  void (*rms_norm_dx)(const RmsNormArgs&, int64_t row_begin, int64_t row_end);
  // Columns [begin, end), begin a multiple of kLanes, over all `rows`.
  void (*rms_norm_dweight)(const RmsNormArgs&, int64_t rows, int64_t begin, int64_t end);
  void (*rotate)(const RotateArgs&, int64_t token_begin, int64_t token_end);
  void (*glu)(const GluArgs&, int64_t begin, int64_t end);
  void (*glu_backward)(const GluArgs&, int64_t begin, int64_t end);
  void (*soft_cap)(const SoftCapArgs&, int64_t begin, int64_t end);
  void (*packed_attention)(const PackedAttentionArgs&, int64_t token_begin, int64_t token_end,
                           int64_t kv_head, float* scratch);
  void (*packed_attention_backward)(const PackedAttentionArgs&, int64_t token_begin,
                                    int64_t token_end, int64_t kv_head, float* scratch);
  void (*paged_attention)(const PagedAttentionArgs&, const PagedQuery&, int64_t kv_head,
                          float* scratch);
  void (*score)(const ScoreArgs&, int64_t row_begin, int64_t row_end);
  void (*score_backward)(const ScoreArgs&, int64_t row_begin, int64_t row_end);
  void (*route)(const RouteArgs&, int64_t row_begin, int64_t row_end);
  void (*route_backward)(const RouteArgs&, int64_t row_begin, int64_t row_end);
  void (*combine)(const CombineArgs&, int64_t token_begin, int64_t token_end);
  void (*weigh)(const WeighArgs&, int64_t slot_begin, int64_t slot_end);
};

// From the narrowest to the widest.
enum class InstructionSet : uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16 };
inline constexpr InstructionSet kInstructionSets[] = {
    InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512,
    InstructionSet::kAvx512Bf16};

// As kernels.isa spells it: "portable", "avx2", "avx512", "avx512_bf16".
const char* NameOf(InstructionSet set);
// The table of one instruction set; null where this processor or build lacks it.
const KernelTable* KernelsFor(InstructionSet set);
// The one in use by this process: at first the widest that the processor runs.
const KernelTable& Kernels();
// From now on Kernels() is that of `set`; false, and no change, where KernelsFor(set) is null. For
// start-up: no kernel may be running.
bool UseInstructionSet(InstructionSet set);
// From now on Kernels() is `table`, which outlives its use. For tests that break a kernel.
void UseKernels(const KernelTable& table);

}  // namespace rollcall::model::kernels
