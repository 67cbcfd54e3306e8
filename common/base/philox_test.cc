#include "common/base/philox.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

namespace rollcall {
namespace {

using Words = std::array<uint32_t, 4>;

// Known answers of Random123 1.09, file kat_vectors, philox4x32 10 rounds.
TEST(PhiloxTest, MatchesPublishedVectors) {
  EXPECT_EQ(Philox4x32(0, Words{0, 0, 0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32(0xffffffffffffffff, Words{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32(0x299f31d0a4093822, Words{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformForTest, ZeroKeyIsTheZeroVectorsFirstTwoWords) {
  // 0x6627e8d5e169c58d >> 11 = 0xCC4FD1ABC2D38, over 2^53.
  EXPECT_EQ(UniformFor(0, 0, 0, 0, 0), 0xCC4FD1ABC2D38 / 9007199254740992.0);
  EXPECT_NEAR(UniformFor(0, 0, 0, 0, 0), 0.39904647085, 1e-11);
}

TEST(UniformForTest, PlacesEveryArgumentWhereTheContractSays) {
  const uint64_t run_seed = 0x0123456789abcdef;
  const uint64_t group_id = 0xfedcba9876543210;
  const Words words = Philox4x32(run_seed, Words{0x76543210, 0xfedcba98, 0x02000007, 1234});
  const uint64_t bits = (static_cast<uint64_t>(words[0]) << 32 | words[1]) >> 11;
  EXPECT_EQ(UniformFor(run_seed, 2, group_id, 7, 1234), std::ldexp(static_cast<double>(bits), -53));
}

TEST(UniformForTest, AllOnesStaysBelowOne) {
  // Counter and key all ones: words 408f276d 41c83b0e.
  const double u = UniformFor(~0ull, 0xff, ~0ull, kMaxSamplesPerGroup - 1, ~0u);
  EXPECT_EQ(u, (0x408f276d41c83b0e >> 11) * 0x1p-53);
  EXPECT_LT(u, 1.0);
}

TEST(PhiloxStreamTest, RepeatsAndSeparates) {
  PhiloxStream a(1, 2), b(1, 2), other_stream(1, 3), other_seed(2, 2);
  int equal_to_stream = 0, equal_to_seed = 0;
  for (int i = 0; i < 100; ++i) {
    const uint32_t word = a.Next32();
    EXPECT_EQ(word, b.Next32());
    equal_to_stream += word == other_stream.Next32();
    equal_to_seed += word == other_seed.Next32();
  }
  EXPECT_LE(equal_to_stream, 1);
  EXPECT_LE(equal_to_seed, 1);
}

TEST(PhiloxStreamTest, GivesEveryWordOfItsBlocksInOrder) {
  PhiloxStream stream(5, 0x100000002);
  for (uint32_t block = 0; block < 3; ++block) {
    for (const uint32_t word : Philox4x32(5 ^ 0x726F6C6C63616C6C, Words{block, 0, 2, 1})) {
      EXPECT_EQ(stream.Next32(), word);
    }
  }
}

TEST(PhiloxStreamTest, BelowIsInRangeAndUnbiased) {
  PhiloxStream stream(7, 0);
  std::vector<int> counts(6, 0);
  for (int i = 0; i < 60000; ++i) ++counts[stream.Below(6)];
  // Binomial: mean 10000, standard deviation 91; five deviations.
  for (const int count : counts) EXPECT_NEAR(count, 10000, 460);
  EXPECT_EQ(stream.Below(1), 0u);
  // Just above half the range nearly every second word is refused; a biased draw would favour the
  // low half 2 to 1.
  const uint64_t n = (1ull << 63) + 1;
  int low = 0;
  for (int i = 0; i < 10000; ++i) {
    const uint64_t value = stream.Below(n);
    ASSERT_LT(value, n);
    low += value < n / 2;
  }
  EXPECT_NEAR(low, 5000, 250);
}

TEST(PhiloxStreamTest, UniformAndNormalHaveTheirMoments) {
  PhiloxStream stream(11, 0);
  constexpr int kDraws = 100000;
  double sum = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = stream.Uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.005);
  double mean = 0, square = 0, fourth = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double z = stream.Normal();
    mean += z;
    square += z * z;
    fourth += z * z * z * z;
  }
  EXPECT_NEAR(mean / kDraws, 0.0, 0.02);
  EXPECT_NEAR(square / kDraws, 1.0, 0.025);
  EXPECT_NEAR(fourth / kDraws, 3.0, 0.2);
}

TEST(PhiloxStreamTest, CopyRepeatsTheOriginal) {
  PhiloxStream original(3, 4);
  original.Next32();
  original.Normal();
  PhiloxStream copy = original;
  EXPECT_EQ(original.Normal(), copy.Normal());
  EXPECT_EQ(original.Next64(), copy.Next64());
}

}  // namespace
}  // namespace rollcall
