#pragma once

// Matrix products: the way from a range of panels to register tiles. Included only by the
// kernels_*.cc files.

#include "common/model/kernels/chain_tile_impl.h"
#include "common/model/kernels/pack_impl.h"
#include "common/model/kernels/pair_tile_impl.h"

namespace rollcall::model::kernels {
namespace {

// The part of a product that one pass reads: rows of a from `row` on, depth steps from `begin` on.
struct Block {
  int64_t row, rows, begin, depth;
};

// A block of a as float32: in place where it is float32 already, else widened into `buffer` along
// its dense dimension.
FloatRows WidenRows(const GemmArgs& g, const Block& block, float* buffer) {
  const int64_t offset = block.row * g.a_row_stride + block.begin * g.a_depth_stride;
  if (g.a_type == Element::kFloat32) {
    return {static_cast<const float*>(g.a) + offset, g.a_row_stride, g.a_depth_stride};
  }
  const uint16_t* a = static_cast<const uint16_t*>(g.a) + offset;
  const bool rows_dense = g.a_row_stride == 1;
  const int64_t outer = rows_dense ? block.depth : block.rows;
  const int64_t inner = rows_dense ? block.rows : block.depth;
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
  return rows_dense ? FloatRows{buffer, 1, block.rows} : FloatRows{buffer, block.depth, 1};
}

// b float32: chains.
struct ChainScheme {
  using B = float;
  static FloatRows Rows(const GemmArgs& g, const Block& block, float* buffer) {
    return WidenRows(g, block, buffer);
  }
  static void Multiply(int64_t rows, int64_t depth, const FloatRows& a, const float* b,
                       const float* /*next*/, float* c, bool accumulate) {
    BlockGemm(rows, kPanelWidth, depth, a.data, a.row_stride, a.depth_stride, b, kPanelWidth, c,
              kPanelWidth, accumulate);
  }
};

// b bfloat16: pair chains.
struct PairScheme {
  using B = uint16_t;
  static FloatRows Rows(const GemmArgs& g, const Block& block, float* buffer) {
    return WidenRows(g, block, buffer);
  }
  template <typename Rows>
  static void Multiply(int64_t rows, int64_t depth, const Rows& a, const uint16_t* b,
                       const uint16_t* next, float* c, bool accumulate) {
    PairPanel(rows, depth, a, b, next, c, accumulate);
  }
};

#if defined(__AVX512BF16__)
// a and b bfloat16: pair chains of vdpbf16ps.
struct DotScheme : PairScheme {
  static void Interleave(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* out) {
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t pair = uint32_t{odd[i]} << 16 | even[i];
      __builtin_memcpy(out + 2 * i, &pair, 4);
    }
  }
  // In place where a row's pairs lie together; else copied into pairs, zeros past an odd depth.
  static PairRows Rows(const GemmArgs& g, const Block& block, float* buffer) {
    const uint16_t* a = static_cast<const uint16_t*>(g.a) + block.row * g.a_row_stride +
                        block.begin * g.a_depth_stride;
    if (g.a_depth_stride == 1 && block.depth % 2 == 0) return {a, g.a_row_stride, 2};
    uint16_t* out = reinterpret_cast<uint16_t*>(buffer);
    const int64_t pair_stride = 2 * block.rows;
    for (int64_t p = 0; p < block.depth; p += 2, a += 2 * g.a_depth_stride, out += pair_stride) {
      const bool whole = p + 1 < block.depth;
      if (whole && g.a_row_stride == 1) {
        Interleave(a, a + g.a_depth_stride, block.rows, out);
        continue;
      }
      for (int64_t i = 0; i < block.rows; ++i) {
        const uint16_t* from = a + i * g.a_row_stride;
        out[2 * i] = from[0];
        out[2 * i + 1] = whole ? from[g.a_depth_stride] : uint16_t{0};
      }
    }
    return {reinterpret_cast<uint16_t*>(buffer), 2, pair_stride};
  }
};
#endif

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

// Few rows take all of the depth that the buffer for a has room for: each panel is then read from
// its beginning to its end.
int64_t DepthBlock(const GemmArgs& g, int64_t rows) {
  if (g.b_stride != 0) return kDepthBlock;
  return kRowBlock * kDepthBlock / Max(rows, 1) / 2 * 2;
}

template <typename Scheme>
__attribute__((noinline)) void GemmBy(const GemmArgs& g, const GemmRange& range, float* scratch) {
  using B = typename Scheme::B;
  const int64_t rows = range.row_end - range.row_begin;
  const int64_t panel_floats = rows * kPanelWidth;
  float* acc = scratch;
  float* a_buffer = acc + kRowBlock * kPanelGroup * kPanelWidth;
  B* b_buffer = reinterpret_cast<B*>(a_buffer + kRowBlock * kDepthBlock);
  const B* b = static_cast<const B*>(g.b);
  if (g.accumulate) {
    for (int64_t panel = range.panel_begin; panel < range.panel_end; ++panel) {
      LoadAccumulators(g, range, panel, acc + (panel - range.panel_begin) * panel_floats);
    }
  }
  // At least one pass, so that an empty depth writes zeros.
  const int64_t most_depth = DepthBlock(g, rows);
  for (int64_t begin = 0; begin == 0 || begin < g.k; begin += most_depth) {
    const Block block{range.row_begin, rows, begin, Min(most_depth, g.k - begin)};
    const auto a = Scheme::Rows(g, block, a_buffer);
    for (int64_t panel = range.panel_begin; panel < range.panel_end; ++panel) {
      const int64_t columns = Min(kPanelWidth, g.n - panel * kPanelWidth);
      const B* from = b_buffer;
      const B* next = b_buffer;
      if (g.b_stride == 0) {
        from = b + panel * PanelElements(g.b_type, g.k) + begin * kPanelWidth;
        next = panel + 1 < range.panel_end ? from + PanelElements(g.b_type, g.k) : from;
      } else if (g.b_transposed) {
        PackColumns(b + panel * kPanelWidth * g.b_stride + begin, g.b_stride, columns, block.depth,
                    b_buffer);
      } else {
        PackSteps(b + begin * g.b_stride + panel * kPanelWidth, g.b_stride, columns, block.depth,
                  b_buffer);
      }
      Scheme::Multiply(rows, block.depth, a, from, next,
                       acc + (panel - range.panel_begin) * panel_floats, begin > 0 || g.accumulate);
    }
  }
  for (int64_t panel = range.panel_begin; panel < range.panel_end; ++panel) {
    float* panel_acc = acc + (panel - range.panel_begin) * panel_floats;
    if (g.bias != nullptr) AddBias<B>(g, range, panel, panel_acc);
    if (g.c_type == Element::kFloat32) {
      StorePanel<float>(g, range, panel, panel_acc);
    } else {
      StorePanel<uint16_t>(g, range, panel, panel_acc);
    }
  }
}

void Gemm(const GemmArgs& g, const GemmRange& range, float* scratch) {
  if (g.b_type == Element::kFloat32) return GemmBy<ChainScheme>(g, range, scratch);
  const FlushSubnormals scope;
#if defined(__AVX512BF16__)
  if (g.a_type == Element::kBFloat16) return GemmBy<DotScheme>(g, range, scratch);
#endif
  GemmBy<PairScheme>(g, range, scratch);
}

}  // namespace
}  // namespace rollcall::model::kernels
