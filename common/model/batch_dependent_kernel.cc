#include "common/model/batch_dependent_kernel.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace rollcall::model::testing {
namespace {

using namespace kernels;  // NOLINT: every other word here is one of theirs

const KernelTable* g_whole = nullptr;

// 1: the last one.
void FlipBit(void* data, Element type, int64_t index, uint32_t bit) {
  if (type == Element::kFloat32) {
    static_cast<uint32_t*>(data)[index] ^= bit;
  } else {
    static_cast<uint16_t*>(data)[index] ^= static_cast<uint16_t>(bit);
  }
}

void FlipLastBit(void* data, Element type, int64_t index) { FlipBit(data, type, index, 1); }

// As a product does whose last rows go another way than the rest.
void BrokenGemm(const GemmArgs& args, const GemmRange& range, float* scratch) {
  g_whole->gemm(args, range, scratch);
  if (range.row_end - range.row_begin < 2) return;
  FlipLastBit(args.c, args.c_type,
              (range.row_end - 1) * args.c_stride + range.panel_begin * kPanelWidth);
}

void BrokenRmsNorm(const RmsNormArgs& args, int64_t begin, int64_t end) {
  g_whole->rms_norm(args, begin, end);
  if (end - begin > 1) FlipLastBit(args.y, args.type, (end - 1) * args.width);
}

void BrokenRotate(const RotateArgs& args, int64_t begin, int64_t end) {
  g_whole->rotate(args, begin, end);
  if (end - begin > 1) FlipLastBit(args.y, args.type, (end - 1) * args.heads * args.head_dim);
}

// As an elementwise loop does whose tail goes another way.
void BrokenGlu(const GluArgs& args, int64_t begin, int64_t end) {
  g_whole->glu(args, begin, end);
  if (begin > 0) FlipLastBit(args.y, args.type, end - 1);
}

// Depends on where in the batch a sequence lies.
void BrokenPackedAttention(const PackedAttentionArgs& args, int64_t begin, int64_t end,
                           int64_t kv_head, float* scratch) {
  g_whole->packed_attention(args, begin, end, kv_head, scratch);
  const AttentionShape& shape = args.shape;
  const int64_t head = kv_head * (shape.heads / shape.kv_heads);
  if (begin > 0) FlipLastBit(args.out, shape.type, (begin * shape.heads + head) * shape.head_dim);
}

// Depends on how a prompt was cut into chunks.
void BrokenPagedAttention(const PagedAttentionArgs& args, const PagedQuery& query, int64_t kv_head,
                          float* scratch) {
  g_whole->paged_attention(args, query, kv_head, scratch);
  const AttentionShape& shape = args.shape;
  const int64_t head = kv_head * (shape.heads / shape.kv_heads), row = query.row + query.count - 1;
  if (query.count > 1)
    FlipLastBit(args.out, shape.type, (row * shape.heads + head) * shape.head_dim);
}

void BrokenScore(const ScoreArgs& args, int64_t begin, int64_t end) {
  g_whole->score(args, begin, end);
  if (end - begin > 1) FlipLastBit(args.logprob, Element::kFloat32, end - 1);
}

void BrokenRoute(const RouteArgs& args, int64_t begin, int64_t end) {
  g_whole->route(args, begin, end);
  // Large enough for what the weight multiplies to round to another bfloat16 somewhere.
  constexpr uint32_t kBit = 1u << 14;
  if (end - begin > 1) FlipBit(args.weights, Element::kFloat32, (end - 1) * args.top, kBit);
}

void BrokenCombine(const CombineArgs& args, int64_t begin, int64_t end) {
  g_whole->combine(args, begin, end);
  if (end - begin > 1) FlipLastBit(args.y, args.type, (end - 1) * args.width);
}

struct Mutation {
  const char* name;
  void (*apply)(KernelTable& table);
};

constexpr Mutation kMutations[] = {
    {"gemm", [](KernelTable& table) { table.gemm = BrokenGemm; }},
    {"rms_norm", [](KernelTable& table) { table.rms_norm = BrokenRmsNorm; }},
    {"rotate", [](KernelTable& table) { table.rotate = BrokenRotate; }},
    {"glu", [](KernelTable& table) { table.glu = BrokenGlu; }},
    {"packed_attention",
     [](KernelTable& table) { table.packed_attention = BrokenPackedAttention; }},
    {"paged_attention", [](KernelTable& table) { table.paged_attention = BrokenPagedAttention; }},
    {"score", [](KernelTable& table) { table.score = BrokenScore; }},
    {"route", [](KernelTable& table) { table.route = BrokenRoute; }},
    {"combine", [](KernelTable& table) { table.combine = BrokenCombine; }},
};

}  // namespace

BatchDependentKernel::BatchDependentKernel(std::string_view name) : broken_(Kernels()) {
  EXPECT_EQ(g_whole, nullptr) << "two at a time";
  g_whole = &Kernels();
  bool known = false;
  for (const Mutation& mutation : kMutations) {
    if (name != mutation.name) continue;
    mutation.apply(broken_);
    known = true;
  }
  EXPECT_TRUE(known) << name;
  UseKernels(broken_);
}

BatchDependentKernel::~BatchDependentKernel() {
  UseKernels(*g_whole);
  g_whole = nullptr;
}

std::vector<std::string> BatchDependentKernel::Names() {
  std::vector<std::string> names;
  for (const Mutation& mutation : kMutations) names.emplace_back(mutation.name);
  return names;
}

}  // namespace rollcall::model::testing
