#pragma once

// The model's CPU arithmetic: plain functions over raw pointers, compiled once per instruction set
// and chosen at run time. They know nothing of LibTorch, allocate nothing and start no threads;
// every call works on a range of rows, panels or heads, and the caller spreads ranges over threads.
//
// The invariant of this folder: each output row is a pure function of its own inputs. Which rows
// share a call, how a range is cut, how many threads run and how the KV cache is blocked never
// change a bit. The reduction orders that make it so are written at each argument struct below;
// raise kKernelRevision when one of them changes.
//
// "chain over k" means acc = fma(a[0], b[0], 0), then fma(a[1], b[1], acc) and so on upwards, in
// float32. "lane sum over n" means 16 partial sums (element j goes to lane j mod 16, upwards), then
// lane i += lane i + 8, i + 4, i + 2, i + 1. bfloat16 inputs are widened exactly; bfloat16 outputs
// are rounded once, to nearest even.

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rollcall::model::kernels {

enum class Element : uint8_t { kFloat32, kBFloat16 };

inline constexpr uint32_t kKernelRevision = 1;

// Columns of one packed weight panel: two 512-bit vectors. Packed weights do not depend on the
// instruction set.
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
constexpr int64_t PaddedHead(int64_t head_dim) { return RoundUp(head_dim, kLanes); }

// Copies w: [n, k], row-major, into panels [n / 32][k][32], zero-filled past n; the element type
// stays.
struct PackArgs {
  const void* w;
  Element type;
  int64_t n, k;
  void* panels;
};

// c[i, j] (+)= sum over p of a[i, p] * b[p, j], one chain over p for each element (starting from c
// when accumulating). a is addressed by its two strides. b is either packed panels (b_stride 0) or
// row-major [k, b_stride].
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
  bool accumulate;  // only with a float32 c
};

struct GemmRange {
  int64_t row_begin, row_end;      // at most kRowBlock rows
  int64_t panel_begin, panel_end;  // at most kPanelGroup panels
};

// y = x / sqrt(mean(x^2) + epsilon) * weight for each row of x: [rows, width]. The square sum is a
// lane sum of fma(x, x, lane); then 1 / sqrt, times x, times weight. All of x, weight, y and the
// gradients share `type`.
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
};

// Half-split rotary embedding of x: [tokens, heads, head_dim]: with c, s of (position, i) and h =
// head_dim / 2, y[i] = fma(x[i], c, -(x[i + h] * s)), y[i + h] = fma(x[i + h], c, x[i] * s).
// `inverse` rotates back (the gradient).
struct RotateArgs {
  int64_t heads, head_dim;
  Element type;
  const void* x;
  void* y;
  const int64_t* positions;  // [tokens]
  const float* table;        // [positions][head_dim]: head_dim / 2 cosines, then as many sines
  bool inverse;
};

// y = gate * sigmoid(gate) * up, elementwise; sigmoid(g) = 1 / (1 + exp(-g)) with the exponential
// of simd.h.
struct SwiGluArgs {
  Element type;
  const void* gate;
  const void* up;
  void* y;
  const void* dy;
  void* dgate;
  void* dup;
};

// One row of attention over keys 0 .. n-1 (n = position + 1):
//   score_j  chain over head_dim of q[d] * k_j[d], then times scale
//   m        the largest score;  e_j = exp(score_j - m);  z = lane sum of e_j
//   out[d]   chain over j of e_j * v_j[d], then times 1 / z
// Query head h reads KV head h / (heads / kv_heads).
struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  float scale;
  Element type;  // of q, k, v, out and the gradients
};

// Packed sequences: q, out, dq, dout: [tokens, heads, head_dim]; k, v, dk, dv: [tokens, kv_heads,
// head_dim]. One call covers one KV head of the sequence at tokens [token_begin, token_end).
// Gradients: per tile of query tokens, upwards; dk and dv are chains over the query rows (token,
// then head of the group).
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

// All kernels of one instruction set. Ranges are half-open; scratch is 64-byte aligned.
struct KernelTable {
  const char* instruction_set;
  const char* arithmetic;
  void (*pack)(const PackArgs&, int64_t panel_begin, int64_t panel_end);
  void (*gemm)(const GemmArgs&, const GemmRange&, float* scratch);
  void (*rms_norm)(const RmsNormArgs&, int64_t row_begin, int64_t row_end);
  void (*rms_norm_dx)(const RmsNormArgs&, int64_t row_begin, int64_t row_end);
  // Columns [begin, end), begin a multiple of kLanes, over all `rows`.
  void (*rms_norm_dweight)(const RmsNormArgs&, int64_t rows, int64_t begin, int64_t end);
  void (*rotate)(const RotateArgs&, int64_t token_begin, int64_t token_end);
  void (*swiglu)(const SwiGluArgs&, int64_t begin, int64_t end);
  void (*swiglu_backward)(const SwiGluArgs&, int64_t begin, int64_t end);
  void (*packed_attention)(const PackedAttentionArgs&, int64_t token_begin, int64_t token_end,
                           int64_t kv_head, float* scratch);
  void (*packed_attention_backward)(const PackedAttentionArgs&, int64_t token_begin,
                                    int64_t token_end, int64_t kv_head, float* scratch);
  void (*paged_attention)(const PagedAttentionArgs&, const PagedQuery&, int64_t kv_head,
                          float* scratch);
  void (*score)(const ScoreArgs&, int64_t row_begin, int64_t row_end);
  void (*score_backward)(const ScoreArgs&, int64_t row_begin, int64_t row_end);
};

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

// The table of one instruction set; null where this processor or build lacks it.
const KernelTable* KernelsFor(InstructionSet set);
// The widest one this processor runs; chosen once. ROLLCALL_KERNELS=portable|avx2|avx512 narrows
// the choice.
const KernelTable& Kernels();

// For the numerics fingerprint: "cpu-fma" (avx2 and avx512 give the same bits) or "cpu-portable"
// (no fused multiply-add, other bits).
std::string_view Arithmetic();

}  // namespace rollcall::model::kernels
