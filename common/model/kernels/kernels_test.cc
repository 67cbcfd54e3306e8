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
  for (InstructionSet set : {InstructionSet::kAvx2, InstructionSet::kAvx512}) {
    if (const KernelTable* table = KernelsFor(set); table != nullptr) tables.push_back(table);
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

TEST(GemmTest, Bfloat16WidensAndRoundsOnce) {
  for (const KernelTable* table : FusedTables()) {
    for (const auto& [m, n, k] : kGemmCases) {
      const std::vector<uint16_t> x = Bfloats(Normals(m * k, 1)), w = Bfloats(Normals(n * k, 2));
      std::vector<uint16_t> panels(PanelCount(n) * kPanelWidth * k), y(m * n), expected(m * n);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          float sum = 0;
          for (int64_t p = 0; p < k; ++p) {
            sum = std::fma(Widen(x[i * k + p]), Widen(w[j * k + p]), sum);
          }
          expected[i * n + j] = RoundToBfloat16(sum);
        }
      }
      table->pack({w.data(), Element::kBFloat16, n, k, panels.data()}, 0, PanelCount(n));
      RunGemm(*table, {m, n, k, x.data(), Element::kBFloat16, k, 1, panels.data(),
                       Element::kBFloat16, 0, y.data(), Element::kBFloat16, n, false});
      EXPECT_EQ(y, expected) << table->instruction_set << " " << m << " " << n << " " << k;
    }
  }
}

TEST(GemmTest, Bfloat16TiesGoToEven) {
  for (InstructionSet set :
       {InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512}) {
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

TEST(AttentionTest, EveryRowIsTheDocumentedChain) {
  const int64_t tokens = 45, heads = 4, kv_heads = 2, head_dim = 20;
  const std::vector<float> q = Normals(tokens * heads * head_dim, 30);
  const std::vector<float> k = Normals(tokens * kv_heads * head_dim, 31);
  const std::vector<float> v = Normals(tokens * kv_heads * head_dim, 32);
  std::vector<float> expected(q.size());
  for (int64_t i = 0; i < tokens; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      const auto row = [&](const std::vector<float>& x, int64_t token) {
        return x.data() + (token * kv_heads + h / 2) * head_dim;
      };
      const float* query = q.data() + (i * heads + h) * head_dim;
      std::vector<float> scores(i + 1, 0.0f);
      for (int64_t j = 0; j <= i; ++j) {
        for (int64_t c = 0; c < head_dim; ++c) {
          scores[j] = std::fma(query[c], row(k, j)[c], scores[j]);
        }
        scores[j] *= 0.3f;
      }
      const float largest = *std::max_element(scores.begin(), scores.end());
      for (float& score : scores) score = ScalarExp(score - largest);
      const float total = LaneSum([&](int64_t j, float lane) { return lane + scores[j]; }, i + 1);
      for (int64_t c = 0; c < head_dim; ++c) {
        float sum = 0;
        for (int64_t j = 0; j <= i; ++j) sum = std::fma(scores[j], row(v, j)[c], sum);
        expected[(i * heads + h) * head_dim + c] = sum * (1.0f / total);
      }
    }
  }
  for (const KernelTable* table : FusedTables()) {
    std::vector<float> out(q.size());
    PackedAttentionArgs args{};
    args.shape = {heads, kv_heads, head_dim, 0.3f, Element::kFloat32};
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

float Silu(const KernelTable& table, float gate) {
  const float one = 1.0f;
  float y = 0;
  SwiGluArgs args{};
  args.type = Element::kFloat32;
  args.gate = &gate;
  args.up = &one;
  args.y = &y;
  table.swiglu(args, 0, 1);
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
  PackedAttentionArgs attention{{heads, kv_heads, head_dim, 0.3f, Element::kFloat32},
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

  RotateArgs rotate{heads,      head_dim,         Element::kFloat32, q.data(),
                    out.data(), positions.data(), cosines.data(),    false};
  table.rotate(rotate, 0, tokens);
  add(out);

  SwiGluArgs swiglu{Element::kFloat32, q.data(),  dout.data(), out.data(),
                    dout.data(),       dq.data(), dq.data()};
  table.swiglu(swiglu, 0, query);
  table.swiglu_backward(swiglu, 0, query);
  add(out);
  add(dq);

  std::vector<float> inverse(tokens), dweight(heads * head_dim);
  RmsNormArgs norm{heads * head_dim, 1e-5f,         Element::kFloat32, q.data(),
                   v.data(),         out.data(),    dout.data(),       dq.data(),
                   dweight.data(),   inverse.data()};
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
  return all;
}

TEST(InstructionSetTest, FusedSetsAgreeBitForBit) {
  const std::vector<const KernelTable*> tables = FusedTables();
  if (tables.size() < 2) GTEST_SKIP() << "this processor runs fewer than two sets with FMA";
  EXPECT_STREQ(tables[0]->arithmetic, tables[1]->arithmetic);
  const std::vector<float> a = EverythingOf(*tables[0]), b = EverythingOf(*tables[1]);
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0);
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
