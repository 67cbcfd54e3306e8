#pragma once

// The function table of one instruction set. Included last by each kernels_*.cc file.

#include "common/model/kernels/attention_backward_impl.h"
#include "common/model/kernels/attention_impl.h"
#include "common/model/kernels/experts_impl.h"
#include "common/model/kernels/gemm_impl.h"
#include "common/model/kernels/head_impl.h"
#include "common/model/kernels/rows_impl.h"

namespace rollcall::model::kernels {
namespace {

constexpr KernelTable MakeTable(const char* instruction_set, const char* arithmetic) {
  return {instruction_set,
          arithmetic,
          Pack,
          Gemm,
          RmsNorm,
          RmsNormDx,
          RmsNormDweight,
          Rotate,
          Glu,
          GluBackward,
          SoftCap,
          PackedAttention,
          PackedAttentionBackward,
          PagedAttention,
          Score,
          ScoreBackward,
          Route,
          RouteBackward,
          Combine,
          Weigh};
}

}  // namespace
}  // namespace rollcall::model::kernels
