#pragma once

// Arguments of the kernels, each with the arithmetic and the reduction order that it stands for.
//
// "chain over k" means acc = fma(a[0], b[0], 0), then fma(a[1], b[1], acc) and so on upwards, in
// float32. "pair chain over k" takes two steps at a time, the odd one first: from acc = 0, for p = 0,
// 2, 4 … acc = fma(a[p], b[p], fma(a[p + 1], b[p + 1], acc)), with zeros past an odd k; subnormal
// numbers, whether read or made, count as zero. That is what vdpbf16ps computes (measured on Zen 4
// over all exponents), and the other instruction sets with FMA follow it. "lane sum over n" means 16 partial sums (element j goes to lane j mod 16, upwards), then
// lane i += lane i + 8, i + 4, i + 2, i + 1. bfloat16 inputs are widened exactly; bfloat16 outputs
// are rounded once, to nearest even.

#include <cstdint>

namespace rollcall::model::kernels {

enum class Element : uint8_t { kFloat32, kBFloat16 };

// Columns of one packed weight panel: two 512-bit vectors of float32. Packed weights do not depend
// on the instruction set.
inline constexpr int64_t kPanelWidth = 32;
// Lanes of the documented sums; KV cache blocks and padded head sizes are multiples of it.
inline constexpr int64_t kLanes = 16;
// Largest range of one Gemm call: 128 rows x 8 panels. With kDepthBlock the scratch (accumulators
// 128 KiB, rows 256 KiB, one panel 64 KiB) stays inside a 1 MiB L2.
inline constexpr int64_t kRowBlock = 128;
inline constexpr int64_t kPanelGroup = 8;
inline constexpr int64_t kDepthBlock = 512;
inline constexpr int64_t kGemmScratchFloats =
    kRowBlock * kPanelGroup * kPanelWidth + kRowBlock * kDepthBlock + kDepthBlock * kPanelWidth;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }
constexpr int64_t PanelCount(int64_t n) { return CeilDiv(n, kPanelWidth); }
// Elements of one panel: [k][32] of float32, [k / 2][32][2] of bfloat16 (an odd k rounded up).
constexpr int64_t PanelElements(Element type, int64_t k) {
  return (type == Element::kFloat32 ? k : RoundUp(k, 2)) * kPanelWidth;
}
constexpr int64_t PaddedHead(int64_t head_dim) { return RoundUp(head_dim, kLanes); }

// Copies w: [n, k], row-major, into the panels of 32 of its rows each (PanelElements), zero-filled
// past n and k; the element type stays.
struct PackArgs {
  const void* w;
  Element type;
  int64_t n, k;
  void* panels;
};

// c[i, j] (+)= sum over p of a[i, p] * b[p, j], then + bias[j] where there is one: for each element
// one chain over p if b is float32, one pair chain if it is bfloat16, starting from c when
// accumulating. a is addressed by its two strides. b is packed panels (b_stride 0), or row-major [k,
// b_stride], or, transposed, row-major [n, b_stride]: a weight as it is stored.
struct GemmArgs {
  int64_t m, n, k;
  const void* a;
  Element a_type;
  int64_t a_row_stride, a_depth_stride;
  const void* b;
  Element b_type;
  int64_t b_stride;
  void* c;
  Element c_type;
  int64_t c_stride;
  bool accumulate;   // only with a float32 c
  const void* bias;  // [n] of b's type, or null
  bool b_transposed = false;
};

struct GemmRange {
  int64_t row_begin, row_end;      // at most kRowBlock rows
  int64_t panel_begin, panel_end;  // at most kPanelGroup panels
};

// y = x / sqrt(mean(x^2) + epsilon) * weight for each row of x: [rows, width]. The square sum is a
// lane sum of fma(x, x, lane); then 1 / sqrt, times x, times weight. All of x, weight, y and the
// gradients share `type`. With unit_offset the stored weight is w and the factor 1 + w (Gemma).
struct RmsNormArgs {
  int64_t width;
  float epsilon;
  Element type;
  const void* x;
  const void* weight;
  void* y;
  // Backward only. dweight: [width], float32; inverse_rms: [rows], float32, written by the input
  // gradient and read by the weight gradient, whose element is a chain over rows.
  const void* dy;
  void* dx;
  float* dweight;
  float* inverse_rms;
  bool unit_offset;
};

// Half-split rotary embedding of the first rotary_dim elements of each head of x: [tokens, heads,
// head_dim]: with c, s of (position, i) and h = rotary_dim / 2, y[i] = fma(x[i], c, -(x[i + h] *
// s)), y[i + h] = fma(x[i + h], c, x[i] * s). The others are copied. `inverse` takes the gradient
// of y to that of x: -s for s.
struct RotateArgs {
  int64_t heads, head_dim, rotary_dim;
  Element type;
  const void* x;
  void* y;
  const int64_t* positions;  // [tokens]
  const float* table;        // [positions][rotary_dim]: rotary_dim / 2 cosines, then as many sines
  bool inverse;
};

enum class Activation : uint8_t {
  kSilu,      // g sigmoid(g)
  kGeluTanh,  // g (1 + tanh(u)) / 2 = g sigmoid(2 u), u = sqrt(2 / pi) (g + 0.044715 g^3)
};

// y = activation(gate) * up, elementwise; sigmoid(g) = 1 / (1 + exp(-g)) with the exponential of
// simd.h.
struct GluArgs {
  Activation activation;
  Element type;
  const void* gate;
  const void* up;
  void* y;
  const void* dy;
  void* dgate;
  void* dup;
};

// In place x = cap * tanh(x * (1 / cap)), elementwise, with the tanh of simd.h; where `slope` is
// not null it gets dy/dx = 1 - tanh^2.
struct SoftCapArgs {
  float cap;
  float* x;
  float* slope;
};

// One row of attention over keys first .. n-1: n = position + 1, first = max(0, n - window), or 0
// without a window.
//   score_j  chain over head_dim of q[d] * k_j[d], then times scale, then soft-capped (SoftCapArgs)
//   m        the largest score;  e_j = exp(score_j - m);  z = lane sum of e_j, lane j mod 16
//   out[d]   chain over j of e_j * v_j[d], then times 1 / z
// Query head h reads KV head h / (heads / kv_heads).
struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  float scale;
  Element type;        // of q, k, v, out and the gradients
  float softcap = 0;   // 0: none
  int64_t window = 0;  // keys that a query sees, its own included; 0: all
};

// Packed sequences: q, out, dq, dout: [tokens, heads, head_dim]; k, v, dk, dv: [tokens, kv_heads,
// head_dim]. One call covers one KV head of the sequence at tokens [token_begin, token_end).
// Gradients: per tile of query tokens, upwards; with p = e * (1 / z) and dp the gradient of p, ds_j =
// p_j (dp_j - lane sum of p dp / lane sum of p) * scale; dq is a chain over keys, dk and dv are chains
// over the query rows (token, then head of the group).
struct PackedAttentionArgs {
  AttentionShape shape;
  const void* q;
  const void* k;
  const void* v;
  void* out;
  const void* dout;
  void* dq;
  void* dk;
  void* dv;
};

// Paged cache of one layer: keys [blocks][kv_heads][head_dim][block_size] (transposed: a vector
// runs over keys), values [blocks][kv_heads][block_size][PaddedHead(head_dim)]. One call covers one
// KV head of `count` query tokens at positions [start, start + count), rows [row, row + count) of q
// and out; their keys are already in the cache.
struct PagedAttentionArgs {
  AttentionShape shape;
  const void* q;
  void* out;
  const void* keys;
  const void* values;
  int64_t block_size;
};

struct PagedQuery {
  const int32_t* block_table;
  int64_t start, row, count;
};

// Most query heads that may share a KV head.
inline constexpr int64_t kMaxGroup = 64;
// Query tokens that one attention tile handles: about eight rows with all heads of the group.
constexpr int64_t TileTokens(const AttentionShape& shape) {
  const int64_t group = shape.heads / shape.kv_heads;
  return group >= 8 ? 1 : 8 / group;
}
// Floats of scratch for a sequence, or a paged context, of n tokens.
int64_t PackedAttentionScratch(const AttentionShape& shape, int64_t n, bool backward);
int64_t PagedAttentionScratch(const AttentionShape& shape, int64_t n);

// Rows of float32 logits: [rows, vocab]. With z = logit * inverse_temperature, m = max z:
//   total = sum of exp(z - m) and weighted = sum of exp(z - m) * (z - m): lane sums over blocks of
//   4,096 columns,
//           the blocks' sums added in float64 upwards
//   logprob = (z[target] - m) - log(total);  entropy = log(total) - weighted / total  (float64,
//   rounded once)
struct ScoreArgs {
  int64_t vocab;
  float inverse_temperature;
  float* logits;           // overwritten with their gradient by the backward
  const int64_t* targets;  // [rows]
  float* logprob;          // [rows]
  float* entropy;          // [rows] or null
  const float* dlogprob;   // [rows] or null
  const float* dentropy;   // [rows] or null
};

}  // namespace rollcall::model::kernels
