#pragma once

// Matrix products. Included only by the kernels_*.cc files.

#include "common/model/kernels/simd.h"

namespace rollcall::model::kernels {
namespace {

// Rows of a register tile: kTileRows x kTileVectors accumulators, the vectors of b and one
// broadcast fit the register file (32 registers with AVX-512, else 16).
#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 2;

template <int kRows, int kVectors, typename B>
ROLLCALL_INLINE void Tile(int64_t depth, const float* a, int64_t a_row, int64_t a_depth, const B* b,
                          int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  Vec acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      acc[i][j] = accumulate ? Load(c + i * c_stride + j * kWidth) : Vec{};
    }
  }
  for (int64_t p = 0; p < depth; ++p) {
    Vec row[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) row[j] = Load(b + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vec x = Splat(a[i * a_row]);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) acc[i][j] = Fma(x, row[j], acc[i][j]);
    }
    a += a_depth;
    b += b_stride;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) Store(c + i * c_stride + j * kWidth, acc[i][j]);
  }
}

template <int kVectors, typename B>
void TileColumn(int64_t m, int64_t depth, const float* a, int64_t a_row, int64_t a_depth,
                const B* b, int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    Tile<kTileRows, kVectors>(depth, a + i * a_row, a_row, a_depth, b, b_stride, c + i * c_stride,
                              c_stride, accumulate);
  }
  a += i * a_row;
  c += i * c_stride;
#define ROLLCALL_TAIL(rows) \
  case rows:                \
    return Tile<rows, kVectors>(depth, a, a_row, a_depth, b, b_stride, c, c_stride, accumulate)
  switch (m - i) {
    ROLLCALL_TAIL(1);
    ROLLCALL_TAIL(2);
    ROLLCALL_TAIL(3);
#if defined(__AVX2__)
    ROLLCALL_TAIL(4);
    ROLLCALL_TAIL(5);
#endif
#if defined(__AVX512F__)
    ROLLCALL_TAIL(6);
    ROLLCALL_TAIL(7);
#endif
    default:
      return;
  }
#undef ROLLCALL_TAIL
}

// c: [m, n] (+)= a: [m, depth] * b: [depth, n], n a multiple of kLanes, all but b float32.
template <typename B>
void BlockGemm(int64_t m, int64_t n, int64_t depth, const float* a, int64_t a_row, int64_t a_depth,
               const B* b, int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  int64_t j = 0;
  for (; j + kTileVectors * kWidth <= n; j += kTileVectors * kWidth) {
    TileColumn<kTileVectors>(m, depth, a, a_row, a_depth, b + j, b_stride, c + j, c_stride,
                             accumulate);
  }
  for (; j < n; j += kWidth) {
    TileColumn<1>(m, depth, a, a_row, a_depth, b + j, b_stride, c + j, c_stride, accumulate);
  }
}

template <typename T>
void PackPanels(const PackArgs& args, int64_t panel_begin, int64_t panel_end) {
  const T* w = static_cast<const T*>(args.w);
  for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
    T* out = static_cast<T*>(args.panels) + panel * args.k * kPanelWidth;
    const int64_t columns = Min(kPanelWidth, args.n - panel * kPanelWidth);
    const T* in = w + panel * kPanelWidth * args.k;
    // Sixteen elements of every row at a time: a cache line is read once even where the rows' lines
    // collide.
    for (int64_t p = 0; p < args.k; p += kLanes) {
      const int64_t depth = Min(kLanes, args.k - p);
      for (int64_t j = 0; j < kPanelWidth; ++j) {
        for (int64_t i = 0; i < depth; ++i) {
          out[(p + i) * kPanelWidth + j] = j < columns ? in[j * args.k + p + i] : T{};
        }
      }
    }
  }
}

void Pack(const PackArgs& args, int64_t panel_begin, int64_t panel_end) {
  if (args.type == Element::kFloat32) return PackPanels<float>(args, panel_begin, panel_end);
  PackPanels<uint16_t>(args, panel_begin, panel_end);
}

// A block of a as float32: in place where it is float32 already, else widened into `buffer` along
// its dense dimension.
struct RowBlock {
  const float* data;
  int64_t row_stride, depth_stride;
};

RowBlock WidenRows(const GemmArgs& g, int64_t row, int64_t rows, int64_t depth_begin, int64_t depth,
                   float* buffer) {
  const int64_t offset = row * g.a_row_stride + depth_begin * g.a_depth_stride;
  if (g.a_type == Element::kFloat32) {
    return {static_cast<const float*>(g.a) + offset, g.a_row_stride, g.a_depth_stride};
  }
  const uint16_t* a = static_cast<const uint16_t*>(g.a) + offset;
  const bool rows_dense = g.a_row_stride == 1;
  const int64_t outer = rows_dense ? depth : rows;
  const int64_t inner = rows_dense ? rows : depth;
  const int64_t outer_stride = rows_dense ? g.a_depth_stride : g.a_row_stride;
  const int64_t inner_stride = rows_dense ? 1 : g.a_depth_stride;
  for (int64_t i = 0; i < outer; ++i) {
    const uint16_t* in = a + i * outer_stride;
    float* out = buffer + i * inner;
    if (inner_stride == 1) {
      for (int64_t j = 0; j < inner; ++j) out[j] = Widen(in[j]);
    } else {
      for (int64_t j = 0; j < inner; ++j) out[j] = Widen(in[j * inner_stride]);
    }
  }
  return rows_dense ? RowBlock{buffer, 1, rows} : RowBlock{buffer, depth, 1};
}

template <typename B>
void CopyPanel(const B* b, int64_t b_stride, int64_t depth, int64_t columns, float* out) {
  for (int64_t p = 0; p < depth; ++p, b += b_stride, out += kPanelWidth) {
    if (columns == kPanelWidth) {
      StoreLanes(out, LoadLanes(b));
      StoreLanes(out + kLanes, LoadLanes(b + kLanes));
    } else {
      for (int64_t j = 0; j < kPanelWidth; ++j) out[j] = j < columns ? Widen(b[j]) : 0.0f;
    }
  }
}

template <typename B>
void MultiplyPanel(const GemmArgs& g, int64_t panel, const RowBlock& a, int64_t rows,
                   int64_t depth_begin, int64_t depth, float* acc, bool accumulate, float* buffer) {
  const B* b = static_cast<const B*>(g.b);
  if (g.b_stride == 0) {
    BlockGemm(rows, kPanelWidth, depth, a.data, a.row_stride, a.depth_stride,
              b + (panel * g.k + depth_begin) * kPanelWidth, kPanelWidth, acc, kPanelWidth,
              accumulate);
    return;
  }
  const int64_t columns = Min(kPanelWidth, g.n - panel * kPanelWidth);
  CopyPanel(b + depth_begin * g.b_stride + panel * kPanelWidth, g.b_stride, depth, columns, buffer);
  BlockGemm(rows, kPanelWidth, depth, a.data, a.row_stride, a.depth_stride, buffer, kPanelWidth,
            acc, kPanelWidth, accumulate);
}

// Adds the bias of one panel's columns to every row of its accumulators.
template <typename B>
void AddBias(const GemmArgs& g, const GemmRange& range, int64_t panel, float* acc) {
  const int64_t columns = Min(kPanelWidth, g.n - panel * kPanelWidth);
  const B* bias = static_cast<const B*>(g.bias) + panel * kPanelWidth;
  const Lanes low = LoadLanes(bias, columns, 0.0f);
  const Lanes high = LoadLanes(bias + kLanes, columns - kLanes, 0.0f);
  for (int64_t i = range.row_begin; i < range.row_end; ++i, acc += kPanelWidth) {
    StoreLanes(acc, LoadLanes(acc) + low);
    StoreLanes(acc + kLanes, LoadLanes(acc + kLanes) + high);
  }
}

template <typename C>
void StorePanel(const GemmArgs& g, const GemmRange& range, int64_t panel, const float* acc) {
  const int64_t columns = Min(kPanelWidth, g.n - panel * kPanelWidth);
  for (int64_t i = range.row_begin; i < range.row_end; ++i, acc += kPanelWidth) {
    C* out = static_cast<C*>(g.c) + i * g.c_stride + panel * kPanelWidth;
    StoreLanes(out, LoadLanes(acc), columns);
    if (columns > kLanes) StoreLanes(out + kLanes, LoadLanes(acc + kLanes), columns - kLanes);
  }
}

void LoadAccumulators(const GemmArgs& g, const GemmRange& range, int64_t panel, float* acc) {
  const int64_t columns = Min(kPanelWidth, g.n - panel * kPanelWidth);
  for (int64_t i = range.row_begin; i < range.row_end; ++i, acc += kPanelWidth) {
    const float* in = static_cast<const float*>(g.c) + i * g.c_stride + panel * kPanelWidth;
    for (int64_t j = 0; j < kPanelWidth; ++j) acc[j] = j < columns ? in[j] : 0.0f;
  }
}

void Gemm(const GemmArgs& g, const GemmRange& range, float* scratch) {
  const int64_t rows = range.row_end - range.row_begin;
  const int64_t panel_floats = rows * kPanelWidth;
  float* acc = scratch;
  float* a_buffer = acc + kRowBlock * kPanelGroup * kPanelWidth;
  float* b_buffer = a_buffer + kRowBlock * kDepthBlock;
  if (g.accumulate) {
    for (int64_t panel = range.panel_begin; panel < range.panel_end; ++panel) {
      LoadAccumulators(g, range, panel, acc + (panel - range.panel_begin) * panel_floats);
    }
  }
  // At least one pass, so that an empty depth writes zeros.
  for (int64_t begin = 0; begin == 0 || begin < g.k; begin += kDepthBlock) {
    const int64_t depth = Min(kDepthBlock, g.k - begin);
    const RowBlock a = WidenRows(g, range.row_begin, rows, begin, depth, a_buffer);
    const bool accumulate = begin > 0 || g.accumulate;
    for (int64_t panel = range.panel_begin; panel < range.panel_end; ++panel) {
      float* panel_acc = acc + (panel - range.panel_begin) * panel_floats;
      if (g.b_type == Element::kFloat32) {
        MultiplyPanel<float>(g, panel, a, rows, begin, depth, panel_acc, accumulate, b_buffer);
      } else {
        MultiplyPanel<uint16_t>(g, panel, a, rows, begin, depth, panel_acc, accumulate, b_buffer);
      }
    }
  }
  for (int64_t panel = range.panel_begin; panel < range.panel_end; ++panel) {
    float* panel_acc = acc + (panel - range.panel_begin) * panel_floats;
    if (g.bias != nullptr) {
      g.b_type == Element::kFloat32 ? AddBias<float>(g, range, panel, panel_acc)
                                    : AddBias<uint16_t>(g, range, panel, panel_acc);
    }
    if (g.c_type == Element::kFloat32) {
      StorePanel<float>(g, range, panel, panel_acc);
    } else {
      StorePanel<uint16_t>(g, range, panel, panel_acc);
    }
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
