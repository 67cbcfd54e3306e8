// The kernels alone: their bits against the documented chains computed one by one in scalar code,
// the same bits from every instruction set with fused multiply-add, and the portable set within a
// tolerance.

#include "common/model/kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "common/base/philox.h"

namespace rollcall::model::kernels {
namespace {

uint16_t RoundToBfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float Widen(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

std::vector<float> Normals(int64_t count, uint64_t stream) {
  PhiloxStream random(17, stream);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.Normal());
  return values;
}

std::vector<uint16_t> Bfloats(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (float value : values) out.push_back(RoundToBfloat16(value));
  return out;
}

// 64-byte aligned.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : storage_(floats + 16) {}
  float* data() {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    return storage_.data() + (64 - address % 64) % 64 / 4;
  }

 private:
  std::vector<float> storage_;
};

std::vector<const KernelTable*> FusedTables() {
  std::vector<const KernelTable*> tables;
  for (const InstructionSet set : kInstructionSets) {
    const KernelTable* table = KernelsFor(set);
    if (table != nullptr && set != InstructionSet::kPortable) tables.push_back(table);
  }
  return tables;
}

// Runs all rows and panels through Gemm in ranges of `rows` and `panels`.
void RunGemm(const KernelTable& table, const GemmArgs& args, int64_t rows = kRowBlock,
             int64_t panels = kPanelGroup) {
  Scratch scratch(kGemmScratchFloats);
  for (int64_t i = 0; i < args.m; i += rows) {
    for (int64_t p = 0; p < PanelCount(args.n); p += panels) {
      table.gemm(args, {i, std::min(args.m, i + rows), p, std::min(PanelCount(args.n), p + panels)},
                 scratch.data());
    }
  }
}

struct GemmCase {
  int64_t m, n, k;
};
// Whole tiles and every tail; a depth past two depth blocks; one row.
const std::vector<GemmCase> kGemmCases = {{1, 32, 16},   {5, 77, 33},  {19, 40, 100},
                                          {130, 33, 65}, {7, 290, 20}, {3, 35, 1100}};

TEST(GemmTest, EveryElementIsOneChain) {
  for (const KernelTable* table : FusedTables()) {
    for (const auto& [m, n, k] : kGemmCases) {
      SCOPED_TRACE(::testing::Message()
                   << table->instruction_set << " " << m << " " << n << " " << k);
      const std::vector<float> x = Normals(m * k, 1), w = Normals(n * k, 2);
      std::vector<float> panels(PanelCount(n) * kPanelWidth * k), y(m * n), expected(m * n);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          float sum = 0;
          for (int64_t p = 0; p < k; ++p) sum = std::fma(x[i * k + p], w[j * k + p], sum);
          expected[i * n + j] = sum;
        }
      }
      table->pack({w.data(), Element::kFloat32, n, k, panels.data()}, 0, PanelCount(n));
      const GemmArgs args{m,
                          n,
                          k,
                          x.data(),
                          Element::kFloat32,
                          k,
                          1,
                          panels.data(),
                          Element::kFloat32,
                          0,
                          y.data(),
                          Element::kFloat32,
                          n,
                          false};
      RunGemm(*table, args);
      EXPECT_EQ(y, expected);
      std::fill(y.begin(), y.end(), 0.0f);
      RunGemm(*table, args, 3, 1);
      EXPECT_EQ(y, expected) << "in ranges of 3 rows and 1 panel";
    }
  }
}

TEST(GemmTest, TheBiasIsAddedLast) {
  for (const KernelTable* table : FusedTables()) {
    const int64_t m = 3, n = 45, k = 20;
    const std::vector<float> x = Normals(m * k, 1), w = Normals(n * k, 2), bias = Normals(n, 3);
    std::vector<float> panels(PanelCount(n) * kPanelWidth * k), plain(m * n), y(m * n);
    table->pack({w.data(), Element::kFloat32, n, k, panels.data()}, 0, PanelCount(n));
    GemmArgs args{m,
                  n,
                  k,
                  x.data(),
                  Element::kFloat32,
                  k,
                  1,
                  panels.data(),
                  Element::kFloat32,
                  0,
                  plain.data(),
                  Element::kFloat32,
                  n,
                  false};
    RunGemm(*table, args);
    args.c = y.data();
    args.bias = bias.data();
    RunGemm(*table, args);
    for (int64_t i = 0; i < m * n; ++i) ASSERT_EQ(y[i], plain[i] + bias[i % n]) << i;
  }
}

TEST(GemmTest, RowMajorStridedAndAccumulating) {
  for (const KernelTable* table : FusedTables()) {
    const int64_t m = 21, n = 45, k = 530;
    // a is stored transposed, as dy is for a weight gradient.
    const std::vector<float> a = Normals(k * m, 3), b = Normals(k * n, 4), c = Normals(m * n, 5);
    std::vector<float> y = c, expected = c;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t p = 0; p < k; ++p) {
          expected[i * n + j] = std::fma(a[p * m + i], b[p * n + j], expected[i * n + j]);
        }
      }
    }
    RunGemm(*table, {m, n, k, a.data(), Element::kFloat32, 1, m, b.data(), Element::kFloat32, n,
                     y.data(), Element::kFloat32, n, true});
    EXPECT_EQ(y, expected) << table->instruction_set;
  }
}

float Flushed(float x) {
  return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

// The documented pair chain over k, from `sum`.
float PairChain(float sum, int64_t k, const std::function<float(int64_t)>& a,
                const std::function<float(int64_t)>& b) {
  const auto step = [&](int64_t p) {
    const float x = p < k ? Flushed(a(p)) : 0.0f, y = p < k ? Flushed(b(p)) : 0.0f;
    sum = Flushed(std::fma(x, y, Flushed(sum)));
  };
  for (int64_t p = 0; p < k; p += 2) {
    step(p + 1);
    step(p);
  }
  return sum;
}

// Numbers of all sizes, so that products and sums are subnormal, and zeros of both signs.
std::vector<uint16_t> BfloatsOfAllSizes(int64_t count, uint64_t stream) {
  PhiloxStream random(18, stream);
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) {
    const auto sign = static_cast<uint16_t>(random.Below(2) << 15);
    value = sign | static_cast<uint16_t>(random.Below(90) << 7 | random.Below(128));
  }
  return values;
}

// x: [m, k] times w: [n, k] transposed, into float32.
std::vector<float> PackAndMultiply(const KernelTable& table, const GemmCase& size,
                                   const std::vector<uint16_t>& x, const std::vector<uint16_t>& w,
                                   int64_t rows = kRowBlock, int64_t panels_at_once = kPanelGroup) {
  const auto& [m, n, k] = size;
  std::vector<uint16_t> panels(PanelCount(n) * PanelElements(Element::kBFloat16, k), 0x7fc0);
  std::vector<float> y(m * n);
  table.pack({w.data(), Element::kBFloat16, n, k, panels.data()}, 0, PanelCount(n));
  RunGemm(table,
          {m, n, k, x.data(), Element::kBFloat16, k, 1, panels.data(), Element::kBFloat16, 0,
           y.data(), Element::kFloat32, n, false},
          rows, panels_at_once);
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(GemmTest, Bfloat16ElementsArePairChains) {
  for (const GemmCase& size : kGemmCases) {
    const auto& [m, n, k] = size;
    for (const bool all_sizes : {false, true}) {
      const auto x = all_sizes ? BfloatsOfAllSizes(m * k, 1) : Bfloats(Normals(m * k, 1));
      const auto w = all_sizes ? BfloatsOfAllSizes(n * k, 2) : Bfloats(Normals(n * k, 2));
      std::vector<float> expected(m * n);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          expected[i * n + j] = PairChain(
              0.0f, k, [&](int64_t p) { return Widen(x[i * k + p]); },
              [&](int64_t p) { return Widen(w[j * k + p]); });
        }
      }
      for (const KernelTable* table : FusedTables()) {
        SCOPED_TRACE(::testing::Message()
                     << table->instruction_set << " " << m << " " << n << " " << k);
        EXPECT_TRUE(SameBits(PackAndMultiply(*table, size, x, w), expected));
        EXPECT_TRUE(SameBits(PackAndMultiply(*table, size, x, w, 3, 1), expected));
      }
    }
  }
}

// A weight as it is stored gives the bits of its panels.
TEST(GemmTest, ATransposedBIsPackedOnTheWay) {
  for (const GemmCase& size : kGemmCases) {
    const auto& [m, n, k] = size;
    const std::vector<uint16_t> x = Bfloats(Normals(m * k, 1)), w = Bfloats(Normals(n * k, 2));
    const std::vector<float> wide_x = Normals(m * k, 1), wide_w = Normals(n * k, 2);
    for (const InstructionSet set : kInstructionSets) {
      const KernelTable* table = KernelsFor(set);
      if (table == nullptr) continue;
      SCOPED_TRACE(::testing::Message()
                   << table->instruction_set << " " << m << " " << n << " " << k);
      std::vector<float> y(m * n);
      RunGemm(*table, {m, n, k, x.data(), Element::kBFloat16, k, 1, w.data(), Element::kBFloat16, k,
                       y.data(), Element::kFloat32, n, false, nullptr, true});
      EXPECT_TRUE(SameBits(y, PackAndMultiply(*table, size, x, w)));
      std::vector<float> panels(PanelCount(n) * PanelElements(Element::kFloat32, k)), packed(m * n);
      table->pack({wide_w.data(), Element::kFloat32, n, k, panels.data()}, 0, PanelCount(n));
      RunGemm(*table, {m, n, k, wide_x.data(), Element::kFloat32, k, 1, panels.data(),
                       Element::kFloat32, 0, packed.data(), Element::kFloat32, n, false});
      RunGemm(*table, {m, n, k, wide_x.data(), Element::kFloat32, k, 1, wide_w.data(),
                       Element::kFloat32, k, y.data(), Element::kFloat32, n, false, nullptr, true});
      EXPECT_TRUE(SameBits(y, packed));
    }
  }
}

// What a row gives must not depend on how many rows are beside it: every height of a tile, and one
// depth block or several.
TEST(GemmTest, ARowIsTheSameInEveryBatch) {
  const int64_t most = 40, n = 70, k = 1101;
  const std::vector<uint16_t> x = Bfloats(Normals(most * k, 1)), w = Bfloats(Normals(n * k, 2));
  for (const InstructionSet set : kInstructionSets) {
    const KernelTable* table = KernelsFor(set);
    if (table == nullptr) continue;
    const std::vector<float> all = PackAndMultiply(*table, {most, n, k}, x, w);
    for (int64_t m = 1; m < most; ++m) {
      const std::vector<uint16_t> last(x.end() - m * k, x.end());
      const std::vector<float> expected(all.end() - m * n, all.end());
      EXPECT_TRUE(SameBits(PackAndMultiply(*table, {m, n, k}, last, w), expected))
          << table->instruction_set << ", " << m << " rows";
    }
  }
}

TEST(GemmTest, Bfloat16RowMajorStridedAndAccumulating) {
  const int64_t m = 21, n = 45, k = 531;
  // a is stored transposed, as dy is for a weight gradient; also float32, as the head's is.
  const std::vector<uint16_t> a = Bfloats(Normals(k * m, 3)), b = Bfloats(Normals(k * n, 4));
  std::vector<float> wide;
  for (const uint16_t value : a) wide.push_back(Widen(value));
  const std::vector<float> c = Normals(m * n, 5);
  std::vector<float> expected = c;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      expected[i * n + j] = PairChain(
          c[i * n + j], k, [&](int64_t p) { return wide[p * m + i]; },
          [&](int64_t p) { return Widen(b[p * n + j]); });
    }
  }
  for (const KernelTable* table : FusedTables()) {
    for (const void* from :
         {static_cast<const void*>(a.data()), static_cast<const void*>(wide.data())}) {
      const Element type = from == a.data() ? Element::kBFloat16 : Element::kFloat32;
      std::vector<float> y = c;
      RunGemm(*table, {m, n, k, from, type, 1, m, b.data(), Element::kBFloat16, n, y.data(),
                       Element::kFloat32, n, true});
      EXPECT_TRUE(SameBits(y, expected)) << table->instruction_set;
    }
  }
}

TEST(GemmTest, Bfloat16TiesGoToEven) {
  for (const InstructionSet set : kInstructionSets) {
    const KernelTable* table = KernelsFor(set);
    if (table == nullptr) continue;
    // Halfway between two bfloat16 numbers: 1 + 1/256 goes down to 1, 1 + 3/256 up to 1 + 4/256.
    const std::vector<uint16_t> x = Bfloats({1.0f, 1.0f});
    const std::vector<uint16_t> w =
        Bfloats({1.0f, 1.0f / 256, 1.0f + 2.0f / 256, 1.0f / 256, std::nanf(""), 0.0f});
    std::vector<uint16_t> panels(kPanelWidth * 2), y(3);
    table->pack({w.data(), Element::kBFloat16, 3, 2, panels.data()}, 0, 1);
    RunGemm(*table, {1, 3, 2, x.data(), Element::kBFloat16, 2, 1, panels.data(), Element::kBFloat16,
                     0, y.data(), Element::kBFloat16, 3, false});
    EXPECT_EQ(Widen(y[0]), 1.0f) << table->instruction_set;
    EXPECT_EQ(Widen(y[1]), 1.0f + 4.0f / 256) << table->instruction_set;
    EXPECT_TRUE(std::isnan(Widen(y[2]))) << table->instruction_set;
  }
}

// The documented lane sum.
float LaneSum(const std::function<float(int64_t, float)>& step, int64_t n) {
  float lane[kLanes] = {};
  for (int64_t j = 0; j < n; ++j) lane[j % kLanes] = step(j, lane[j % kLanes]);
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

TEST(RmsNormTest, SquareSumIsTheLaneSum) {
  for (const KernelTable* table : FusedTables()) {
    for (int64_t width : {8, 16, 72, 100}) {
      const std::vector<float> x = Normals(3 * width, 6), weight = Normals(width, 7);
      std::vector<float> y(3 * width);
      RmsNormArgs args{};
      args.width = width;
      args.epsilon = 1e-5f;
      args.type = Element::kFloat32;
      args.x = x.data();
      args.weight = weight.data();
      args.y = y.data();
      table->rms_norm(args, 0, 3);
      for (int64_t i = 0; i < 3; ++i) {
        const float* row = x.data() + i * width;
        const float squares =
            LaneSum([&](int64_t j, float lane) { return std::fma(row[j], row[j], lane); }, width);
        const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(width) + 1e-5f);
        for (int64_t j = 0; j < width; ++j) {
          ASSERT_EQ(y[i * width + j], row[j] * inverse * weight[j]) << width;
        }
      }
    }
  }
}

TEST(RmsNormTest, UnitOffsetAddsOneToTheWeight) {
  for (const KernelTable* table : FusedTables()) {
    const int64_t width = 21;
    const std::vector<float> x = Normals(width, 6), weight = Normals(width, 7);
    std::vector<float> plain(width), offset(width), shifted = weight;
    for (float& w : shifted) w = 1.0f + w;
    RmsNormArgs args{};
    args.width = width;
    args.epsilon = 1e-5f;
    args.x = x.data();
    args.weight = shifted.data();
    args.y = plain.data();
    table->rms_norm(args, 0, 1);
    args.weight = weight.data();
    args.y = offset.data();
    args.unit_offset = true;
    table->rms_norm(args, 0, 1);
    EXPECT_EQ(plain, offset) << table->instruction_set;
  }
}

TEST(RotateTest, ElementsPastTheRotaryPartAreCopied) {
  for (const KernelTable* table : FusedTables()) {
    const std::vector<float> x = Normals(2 * 10, 6), angles = Normals(3 * 6, 7);
    const int64_t position = 2;
    std::vector<float> y(20);
    table->rotate(
        {2, 10, 6, Element::kFloat32, x.data(), y.data(), &position, angles.data(), false}, 0, 1);
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < 3; ++i) {
        const float low = x[h * 10 + i], high = x[h * 10 + 3 + i];
        const float c = angles[12 + i], s = angles[15 + i];
        EXPECT_EQ(y[h * 10 + i], std::fma(low, c, -(high * s)));
        EXPECT_EQ(y[h * 10 + 3 + i], std::fma(high, c, low * s));
      }
      for (int64_t i = 6; i < 10; ++i) EXPECT_EQ(y[h * 10 + i], x[h * 10 + i]);
    }
  }
}

// The documented exponential, one number at a time.
float ScalarExp(float x) {
  x = std::min(88.0f, std::max(-87.0f, x));
  const float n = std::fma(x, 1.44269504f, 12582912.0f) - 12582912.0f;
  const float r = std::fma(n, -1.42860677e-6f, std::fma(n, -0.693145752f, x));
  float p = 1.0f / 5040;
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) {
    p = std::fma(p, r, c);
  }
  return std::ldexp(p, static_cast<int>(n));
}

// The documented tanh, one number at a time.
float ScalarTanh(float x) {
  const float size = std::abs(x), z = x * x;
  if (size >= 0.35f) return std::copysign(1.0f - 2.0f / (1.0f + ScalarExp(size + size)), x);
  float p = -1382.0f / 155925;
  for (float c : {62.0f / 2835, -17.0f / 315, 2.0f / 15, -1.0f / 3}) p = std::fma(p, z, c);
  return std::fma(p * z, x, x);
}

struct AttentionCase {
  int64_t window;
  float softcap;
};

// Windows inside a tile of query tokens, across vectors and blocks, and longer than the sequence.
const std::vector<AttentionCase> kAttentionCases = {{0, 0},  {1, 0},  {2, 0}, {7, 0},    {16, 0},
                                                    {33, 0}, {99, 0}, {0, 2}, {11, 0.7f}};

TEST(AttentionTest, EveryRowIsTheDocumentedChain) {
  const int64_t tokens = 45, heads = 4, kv_heads = 2, head_dim = 20;
  const std::vector<float> q = Normals(tokens * heads * head_dim, 30);
  const std::vector<float> k = Normals(tokens * kv_heads * head_dim, 31);
  const std::vector<float> v = Normals(tokens * kv_heads * head_dim, 32);
  for (const auto& [window, softcap] : kAttentionCases) {
    SCOPED_TRACE(::testing::Message() << "window " << window << ", cap " << softcap);
    std::vector<float> expected(q.size());
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, i + 1 - window);
      for (int64_t h = 0; h < heads; ++h) {
        const auto row = [&](const std::vector<float>& x, int64_t token) {
          return x.data() + (token * kv_heads + h / 2) * head_dim;
        };
        const float* query = q.data() + (i * heads + h) * head_dim;
        std::vector<float> scores(i + 1, 0.0f);
        float largest = -std::numeric_limits<float>::infinity();
        for (int64_t j = first; j <= i; ++j) {
          for (int64_t c = 0; c < head_dim; ++c) {
            scores[j] = std::fma(query[c], row(k, j)[c], scores[j]);
          }
          scores[j] *= 0.3f;
          if (softcap != 0) scores[j] = ScalarTanh(scores[j] * (1.0f / softcap)) * softcap;
          largest = std::max(largest, scores[j]);
        }
        for (int64_t j = first; j <= i; ++j) scores[j] = ScalarExp(scores[j] - largest);
        const float total = LaneSum([&](int64_t j, float lane) { return lane + scores[j]; }, i + 1);
        for (int64_t c = 0; c < head_dim; ++c) {
          float sum = 0;
          for (int64_t j = first; j <= i; ++j) sum = std::fma(scores[j], row(v, j)[c], sum);
          expected[(i * heads + h) * head_dim + c] = sum * (1.0f / total);
        }
      }
    }
    for (const KernelTable* table : FusedTables()) {
      std::vector<float> out(q.size());
      PackedAttentionArgs args{};
      args.shape = {heads, kv_heads, head_dim, 0.3f, Element::kFloat32, softcap, window};
      args.q = q.data();
      args.k = k.data();
      args.v = v.data();
      args.out = out.data();
      Scratch scratch(PackedAttentionScratch(args.shape, tokens, false));
      for (int64_t h = 0; h < kv_heads; ++h) {
        table->packed_attention(args, 0, tokens, h, scratch.data());
      }
      EXPECT_EQ(out, expected) << table->instruction_set;
    }
  }
}

TEST(SoftCapTest, TanhIsAccurateEverywhere) {
  std::vector<const KernelTable*> tables = FusedTables();
  tables.push_back(KernelsFor(InstructionSet::kPortable));
  for (const KernelTable* table : tables) {
    std::vector<float> x, slope;
    for (double value = -20; value <= 20; value += 0.00137) x.push_back(static_cast<float>(value));
    for (float extreme : {0.0f, 1e-30f, -1e-6f, 1e4f, -std::numeric_limits<float>::infinity()}) {
      x.push_back(extreme);
    }
    std::vector<float> y = x;
    slope.resize(x.size());
    table->soft_cap({1.0f, y.data(), slope.data()}, 0, static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::tanh(static_cast<double>(x[i]));
      ASSERT_NEAR(y[i], exact, 4e-7 * std::abs(exact)) << x[i];
      ASSERT_NEAR(slope[i], 1 - exact * exact, 4e-7) << x[i];
    }
    float nan = std::nanf("");
    table->soft_cap({1.0f, &nan, nullptr}, 0, 1);
    EXPECT_TRUE(std::isnan(nan));
  }
}

TEST(SoftCapTest, CapsAndScales) {
  std::vector<float> x = {-100.0f, 0.0f, 1.0f, 100.0f};
  Kernels().soft_cap({30.0f, x.data(), nullptr}, 0, 4);
  EXPECT_NEAR(x[0], -30 * std::tanh(100.0 / 30), 1e-5);
  EXPECT_EQ(x[1], 0.0f);
  EXPECT_NEAR(x[2], 30 * std::tanh(1.0 / 30), 1e-6);
  EXPECT_EQ(x[3], -x[0]);
}

TEST(GluTest, GeluTanhAndItsSlope) {
  for (const KernelTable* table : {&Kernels(), KernelsFor(InstructionSet::kPortable)}) {
    for (double g = -9; g <= 9; g += 0.0137) {
      const auto gate = static_cast<float>(g);
      const float one = 1.0f, two = 2.0f;
      float y = 0, dgate = 0, dup = 0;
      const GluArgs args{
          Activation::kGeluTanh, Element::kFloat32, &gate, &two, &y, &one, &dgate, &dup};
      table->glu(args, 0, 1);
      table->glu_backward(args, 0, 1);
      const auto gelu = [](double x) {
        return x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) / 2;
      };
      const double slope = (gelu(gate + 1e-5) - gelu(gate - 1e-5)) / 2e-5;
      ASSERT_NEAR(y, 2 * gelu(gate), 1e-6) << g;
      ASSERT_NEAR(dup, gelu(gate), 1e-6) << g;
      ASSERT_NEAR(dgate, 2 * slope, 4e-6) << g;
    }
  }
}

struct Routing {
  std::vector<int64_t> chosen;
  std::vector<float> weights;
};

Routing RunRoute(const std::vector<float>& logits, int64_t experts, int64_t top, bool normalize) {
  const auto rows = static_cast<int64_t>(logits.size()) / experts;
  Routing routing{std::vector<int64_t>(rows * top), std::vector<float>(rows * top)};
  RouteArgs args{};
  args.experts = experts;
  args.top = top;
  args.normalize = normalize;
  args.logits = logits.data();
  args.chosen = routing.chosen.data();
  args.weights = routing.weights.data();
  Kernels().route(args, 0, rows);
  return routing;
}

TEST(RouteTest, HandWorked) {
  // Softmax of (0, ln 2, ln 4, 0) is (1, 2, 4, 1) / 8.
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(4.0f), 0.0f};
  const Routing plain = RunRoute(logits, 4, 2, false);
  EXPECT_EQ(plain.chosen, (std::vector<int64_t>{1, 2}));
  EXPECT_NEAR(plain.weights[0], 0.25, 1e-6);
  EXPECT_NEAR(plain.weights[1], 0.5, 1e-6);
  const Routing normal = RunRoute(logits, 4, 2, true);
  EXPECT_NEAR(normal.weights[0], 1.0 / 3, 1e-6);
  EXPECT_NEAR(normal.weights[1], 2.0 / 3, 1e-6);
}

TEST(RouteTest, OfEqualLogitsTheLowerIndexIsChosen) {
  EXPECT_EQ(RunRoute({1, 2, 2, 2, 1, 2, 3, 1}, 8, 3, true).chosen, (std::vector<int64_t>{1, 2, 6}));
  EXPECT_EQ(RunRoute({0, 0, 0}, 3, 3, true).chosen, (std::vector<int64_t>{0, 1, 2}));
}

TEST(RouteTest, GradientIsThatOfTheWeights) {
  const int64_t experts = 21, top = 4;
  const std::vector<float> logits = Normals(experts, 40), dweights = Normals(top, 41);
  for (bool normalize : {false, true}) {
    const Routing routing = RunRoute(logits, experts, top, normalize);
    const auto value = [&](int64_t at, double step) {
      double total = 0, chosen_total = 0, sum = 0;
      const auto e = [&](int64_t j) { return std::exp(logits[j] + (j == at ? step : 0.0)); };
      for (int64_t j = 0; j < experts; ++j) total += e(j);
      for (int64_t i : routing.chosen) chosen_total += e(i);
      for (int64_t i = 0; i < top; ++i) {
        sum += dweights[i] * e(routing.chosen[i]) / (normalize ? chosen_total : total);
      }
      return sum;
    };
    std::vector<float> dlogits(experts), weights = routing.weights;
    std::vector<int64_t> chosen = routing.chosen;
    RouteArgs args{experts,         top,           normalize,
                   logits.data(),   chosen.data(), weights.data(),
                   dweights.data(), dlogits.data()};
    Kernels().route_backward(args, 0, 1);
    for (int64_t j = 0; j < experts; ++j) {
      EXPECT_NEAR(dlogits[j], (value(j, 1e-4) - value(j, -1e-4)) / 2e-4, 1e-6) << j;
    }
  }
}

TEST(CombineTest, WeightedRowsAreOneChain) {
  const int64_t width = 37, top = 3;
  const std::vector<float> rows = Normals(4 * width, 42), weights = Normals(2 * top, 43);
  const std::vector<int64_t> slots = {3, 0, 2, 1, 2, 3};
  for (const KernelTable* table : FusedTables()) {
    std::vector<float> y(2 * width), sums(2 * width);
    table->combine(
        {top, width, rows.data(), slots.data(), weights.data(), Element::kFloat32, y.data()}, 0, 2);
    table->combine({top, width, rows.data(), slots.data(), nullptr, Element::kFloat32, sums.data()},
                   0, 2);
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t j = 0; j < width; ++j) {
        float chain = 0, sum = 0;
        for (int64_t i = t * top; i < (t + 1) * top; ++i) {
          chain = std::fma(weights[i], rows[slots[i] * width + j], chain);
          sum += rows[slots[i] * width + j];
        }
        ASSERT_EQ(y[t * width + j], chain);
        ASSERT_EQ(sums[t * width + j], sum);
      }
    }
  }
}

float Silu(const KernelTable& table, float gate) {
  const float one = 1.0f;
  float y = 0;
  GluArgs args{};
  args.type = Element::kFloat32;
  args.gate = &gate;
  args.up = &one;
  args.y = &y;
  table.glu(args, 0, 1);
  return y;
}

TEST(ExponentialTest, SiluIsAccurateOverItsWholeRange) {
  std::vector<const KernelTable*> tables = FusedTables();
  tables.push_back(KernelsFor(InstructionSet::kPortable));
  for (const KernelTable* table : tables) {
    for (double g = -80; g <= 100; g += 0.0137) {
      const float gate = static_cast<float>(g);
      const double exact = gate / (1 + std::exp(-static_cast<double>(gate)));
      ASSERT_NEAR(Silu(*table, gate), exact, 4e-7 * std::abs(exact)) << gate;
    }
    EXPECT_EQ(Silu(*table, 0.0f), 0.0f);
    EXPECT_TRUE(std::isnan(Silu(*table, std::nanf(""))));
    // No exponential overflows into a NaN.
    EXPECT_NEAR(Silu(*table, -1e4f), 0.0f, 1e-30);
    EXPECT_EQ(Silu(*table, 1e4f), 1e4f);
  }
}

struct Scores {
  std::vector<float> logprob, entropy;
};

Scores RunScore(const KernelTable& table, std::vector<float> logits, int64_t vocab,
                const std::vector<int64_t>& targets, double temperature) {
  Scores scores;
  scores.logprob.resize(targets.size());
  scores.entropy.resize(targets.size());
  ScoreArgs args{};
  args.vocab = vocab;
  args.inverse_temperature = static_cast<float>(1 / temperature);
  args.logits = logits.data();
  args.targets = targets.data();
  args.logprob = scores.logprob.data();
  args.entropy = scores.entropy.data();
  table.score(args, 0, static_cast<int64_t>(targets.size()));
  return scores;
}

TEST(ScoreTest, AccurateForSmallAndLargeVocabularies) {
  std::vector<const KernelTable*> tables = FusedTables();
  tables.push_back(KernelsFor(InstructionSet::kPortable));
  for (int64_t vocab : {2, 17, 4096, 151936}) {
    std::vector<float> logits = Normals(vocab, 8);
    for (float& logit : logits) logit *= 4;
    const double temperature = 0.8;
    const int64_t target = vocab / 2;
    double total = 0, weighted = 0;
    for (float logit : logits) {
      total += std::exp(logit / temperature);
      weighted += std::exp(logit / temperature) * (logit / temperature);
    }
    const double logprob = logits[target] / temperature - std::log(total);
    const double entropy = std::log(total) - weighted / total;
    for (const KernelTable* table : tables) {
      SCOPED_TRACE(::testing::Message() << table->instruction_set << " vocab " << vocab);
      const Scores scores = RunScore(*table, logits, vocab, {target}, temperature);
      EXPECT_NEAR(scores.logprob[0], logprob, 2e-6);
      EXPECT_NEAR(scores.entropy[0], entropy, 4e-6);
    }
  }
}

TEST(ScoreTest, HandWorked) {
  // Softmax of (0, ln 3) is (1/4, 3/4).
  const Scores scores =
      RunScore(Kernels(), {0.0f, std::log(3.0f), 0.0f, std::log(3.0f)}, 2, {0, 1}, 1.0);
  EXPECT_NEAR(scores.logprob[0], std::log(0.25), 1e-6);
  EXPECT_NEAR(scores.logprob[1], std::log(0.75), 1e-6);
  EXPECT_NEAR(scores.entropy[0], -0.25 * std::log(0.25) - 0.75 * std::log(0.75), 1e-6);
}

TEST(ScoreTest, NonFiniteLogitsAreNotHidden) {
  for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    std::vector<float> logits = Normals(40, 9);
    logits[33] = bad;
    EXPECT_TRUE(std::isnan(RunScore(Kernels(), logits, 40, {0}, 1.0).logprob[0])) << bad;
  }
}

// Everything one table computes on fixed inputs, as one list of floats.
std::vector<float> EverythingOf(const KernelTable& table) {
  std::vector<float> all;
  const auto add = [&](const std::vector<float>& values) {
    all.insert(all.end(), values.begin(), values.end());
  };
  const int64_t tokens = 53, heads = 6, kv_heads = 2, head_dim = 20;
  const int64_t query = tokens * heads * head_dim, key = tokens * kv_heads * head_dim;
  const std::vector<float> q = Normals(query, 20), k = Normals(key, 21), v = Normals(key, 22),
                           dout = Normals(query, 23), cosines = Normals(tokens * head_dim, 24);
  std::vector<int64_t> positions(tokens);
  for (int64_t i = 0; i < tokens; ++i) positions[i] = i;
  std::vector<float> out(query), dq(query), dk(key), dv(key);
  for (const auto& [window, softcap] : kAttentionCases) {
    PackedAttentionArgs attention{
        {heads, kv_heads, head_dim, 0.3f, Element::kFloat32, softcap, window},
        q.data(),
        k.data(),
        v.data(),
        out.data(),
        dout.data(),
        dq.data(),
        dk.data(),
        dv.data()};
    Scratch scratch(PackedAttentionScratch(attention.shape, tokens, true));
    for (int64_t h = 0; h < kv_heads; ++h) {
      table.packed_attention(attention, 0, tokens, h, scratch.data());
      table.packed_attention_backward(attention, 0, tokens, h, scratch.data());
    }
    for (const auto& values : {out, dq, dk, dv}) add(values);
  }

  RotateArgs rotate{
      heads,          head_dim, 12, Element::kFloat32, q.data(), out.data(), positions.data(),
      cosines.data(), false};
  table.rotate(rotate, 0, tokens);
  add(out);

  for (Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    GluArgs glu{activation, Element::kFloat32, q.data(),  dout.data(),
                out.data(), dout.data(),       dq.data(), dq.data()};
    table.glu(glu, 0, query);
    table.glu_backward(glu, 0, query);
    add(out);
    add(dq);
  }

  std::vector<float> inverse(tokens), dweight(heads * head_dim);
  RmsNormArgs norm{heads * head_dim, 1e-5f,          Element::kFloat32,   q.data(),
                   v.data(),         out.data(),     dout.data(),         dq.data(),
                   dweight.data(),   inverse.data(), /*unit_offset=*/true};
  table.rms_norm(norm, 0, tokens);
  table.rms_norm_dx(norm, 0, tokens);
  table.rms_norm_dweight(norm, tokens, 0, norm.width);
  for (const auto& values : {out, dq, dweight, inverse}) add(values);

  std::vector<float> logits = q, logprob(tokens), entropy(tokens);
  ScoreArgs score{heads * head_dim, 0.9f,           logits.data(), positions.data(),
                  logprob.data(),   entropy.data(), k.data(),      v.data()};
  table.score(score, 0, tokens);
  table.score_backward(score, 0, tokens);
  for (const auto& values : {logprob, entropy, logits}) add(values);

  std::vector<int64_t> chosen(tokens * 3), slots(tokens * 3);
  std::vector<float> weights(tokens * 3), dweights(tokens * 3), dlogits(tokens * head_dim);
  RouteArgs route{head_dim,       3,        false,         q.data(), chosen.data(),
                  weights.data(), k.data(), dlogits.data()};
  table.route(route, 0, tokens);
  table.route_backward(route, 0, tokens);
  for (int64_t i = 0; i < tokens * 3; ++i) slots[i] = (i * 7) % tokens;
  table.combine(
      {3, head_dim, v.data(), slots.data(), weights.data(), Element::kFloat32, out.data()}, 0,
      tokens);
  table.weigh(
      {head_dim, Element::kFloat32, k.data(), v.data(), weights.data(), dweights.data(), dk.data()},
      0, tokens);
  for (const auto& values : {weights, dlogits, out, dweights, dk}) add(values);
  return all;
}

TEST(InstructionSetTest, FusedSetsAgreeBitForBit) {
  const std::vector<const KernelTable*> tables = FusedTables();
  if (tables.size() < 2) GTEST_SKIP() << "this processor runs fewer than two sets with FMA";
  const std::vector<float> expected = EverythingOf(*tables[0]);
  for (const KernelTable* table : tables) {
    EXPECT_STREQ(table->arithmetic, tables[0]->arithmetic);
    EXPECT_TRUE(SameBits(EverythingOf(*table), expected)) << table->instruction_set;
  }
}

TEST(InstructionSetTest, AProcessUsesTheWidestUntilItIsToldOtherwise) {
  const std::string widest = Kernels().instruction_set;
  for (const InstructionSet set : kInstructionSets) {
    const KernelTable* table = KernelsFor(set);
    ASSERT_EQ(UseInstructionSet(set), table != nullptr);
    if (table == nullptr) continue;
    EXPECT_EQ(&Kernels(), table);
    EXPECT_STREQ(table->instruction_set, NameOf(set));
  }
  EXPECT_EQ(Kernels().instruction_set, widest);
}

TEST(InstructionSetTest, PortableAgreesWithinRoundingAndSaysThatItDiffers) {
  const KernelTable* portable = KernelsFor(InstructionSet::kPortable);
  EXPECT_STREQ(portable->arithmetic, "cpu-portable");
  const std::vector<float> a = EverythingOf(*portable);
  for (const KernelTable* table : FusedTables()) {
    EXPECT_STREQ(table->arithmetic, "cpu-fma");
    const std::vector<float> b = EverythingOf(*table);
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_NEAR(a[i], b[i], 2e-5 * (1 + std::abs(b[i]))) << i;
    }
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
