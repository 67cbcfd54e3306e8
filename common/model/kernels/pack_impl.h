#pragma once

// Packing of b into panels (PanelElements), whole or piece by piece. Included only by the
// kernels_*.cc files.

#include "common/model/kernels/simd.h"

namespace rollcall::model::kernels {
namespace {

template <int... kIndex>
struct Indices {};
template <int kCount, int... kIndex>
struct FirstIndices : FirstIndices<kCount - 1, kCount - 1, kIndex...> {};
template <int... kIndex>
struct FirstIndices<0, kIndex...> {
  using Type = Indices<kIndex...>;
};

// Of two rows kStep apart: the new upper one takes every other block of kStep elements from the
// lower, the new lower one the others from the upper.
template <int kStep, int... kIndex>
ROLLCALL_INLINE VecU Upper(VecU a, VecU b, Indices<kIndex...>) {
  return __builtin_shufflevector(a, b,
                                 ((kIndex & kStep) == 0 ? kIndex : kWidth + kIndex - kStep)...);
}
template <int kStep, int... kIndex>
ROLLCALL_INLINE VecU Lower(VecU a, VecU b, Indices<kIndex...>) {
  return __builtin_shufflevector(a, b,
                                 ((kIndex & kStep) == 0 ? kIndex + kStep : kWidth + kIndex)...);
}

// Swaps the off-diagonal blocks of kStep x kStep elements in every square of twice that size, then
// those of twice the step: in the end rows is transposed.
template <int kStep>
ROLLCALL_INLINE void TransposeSquare(VecU (&rows)[kWidth]) {
  using All = typename FirstIndices<kWidth>::Type;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if ((i & kStep) != 0) continue;
    const VecU a = rows[i], b = rows[i + kStep];
    rows[i] = Upper<kStep>(a, b, All());
    rows[i + kStep] = Lower<kStep>(a, b, All());
  }
  if constexpr (2 * kStep < kWidth) TransposeSquare<2 * kStep>(rows);
}

// The first `count` words at p, then zeros.
ROLLCALL_INLINE VecU LoadWords(const char* p, int64_t count) {
  VecU words = {};
  if (count >= kWidth) {
    __builtin_memcpy(&words, p, sizeof(words));
  } else if (count > 0) {
    __builtin_memcpy(&words, p, count * 4);
  }
  return words;
}

// out[p][j] = word p of row j, for p < words and all j < kPanelWidth; rows past `rows` are zero. Row
// j begins at in + j * row_bytes.
void TransposeWords(const char* in, int64_t row_bytes, int64_t rows, int64_t words, char* out) {
  for (int64_t p = 0; p < words; p += kWidth) {
    for (int64_t j = 0; j < kPanelWidth; j += kWidth) {
      VecU square[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        square[i] = LoadWords(in + (j + i) * row_bytes + p * 4, j + i < rows ? words - p : 0);
      }
      TransposeSquare<1>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (p + i < words) {
          __builtin_memcpy(out + ((p + i) * kPanelWidth + j) * 4, &square[i], sizeof(square[i]));
        }
      }
    }
  }
}

// Columns [0, columns) of one panel, `depth` steps of it: from rows of w, one for each column and
// `stride` elements apart.
void PackColumns(const float* w, int64_t stride, int64_t columns, int64_t depth, float* out) {
  TransposeWords(reinterpret_cast<const char*>(w), 4 * stride, columns, depth,
                 reinterpret_cast<char*>(out));
}
void PackColumns(const uint16_t* w, int64_t stride, int64_t columns, int64_t depth, uint16_t* out) {
  TransposeWords(reinterpret_cast<const char*>(w), 2 * stride, columns, depth / 2,
                 reinterpret_cast<char*>(out));
  if (depth % 2 == 0) return;
  out += (depth - 1) * kPanelWidth;
  for (int64_t j = 0; j < kPanelWidth; ++j) {
    out[2 * j] = j < columns ? w[j * stride + depth - 1] : uint16_t{0};
    out[2 * j + 1] = 0;
  }
}

// The same from rows of b, one for each step.
void PackSteps(const float* b, int64_t stride, int64_t columns, int64_t depth, float* out) {
  for (int64_t p = 0; p < depth; ++p, b += stride, out += kPanelWidth) {
    StoreLanes(out, LoadLanes(b, columns, 0.0f));
    StoreLanes(out + kLanes, LoadLanes(b + kLanes, columns - kLanes, 0.0f));
  }
}
void PackSteps(const uint16_t* b, int64_t stride, int64_t columns, int64_t depth, uint16_t* out) {
  for (int64_t p = 0; p < depth; p += 2, b += 2 * stride, out += 2 * kPanelWidth) {
    const int64_t odd_columns = p + 1 < depth ? columns : 0;
    for (int64_t j = 0; j < kPanelWidth; j += kLanes) {
      const Lanes even = LoadLanes(b + j, columns - j, 0.0f);
      const Lanes odd = LoadLanes(b + (odd_columns > j ? stride + j : 0), odd_columns - j, 0.0f);
      float* to = reinterpret_cast<float*>(out + 2 * j);
      ROLLCALL_EACH_PART(i) {
        const VecU pair = (VecU)odd.part[i] | ((VecU)even.part[i] >> 16);
        Store(to + i * kWidth, (Vec)pair);
      }
    }
  }
}

template <typename T>
void PackPanels(const PackArgs& args, int64_t panel_begin, int64_t panel_end) {
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    PackColumns(static_cast<const T*>(args.w) + panel * kPanelWidth * args.k, args.k,
                Min(kPanelWidth, args.n - panel * kPanelWidth), args.k,
                static_cast<T*>(args.panels) + panel * PanelElements(args.type, args.k));
  }
}

void Pack(const PackArgs& args, int64_t panel_begin, int64_t panel_end) {
  if (args.type == Element::kFloat32) return PackPanels<float>(args, panel_begin, panel_end);
  PackPanels<uint16_t>(args, panel_begin, panel_end);
}

}  // namespace
}  // namespace rollcall::model::kernels
