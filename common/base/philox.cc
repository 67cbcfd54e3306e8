#include "common/base/philox.h"

#include <cmath>
#include <numbers>

namespace rollcall {
namespace {

constexpr int kRounds = 10;
// Multipliers and Weyl increments of the paper: golden ratio and sqrt(3) - 1, as 32-bit fractions.
constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;

// Separates PhiloxStream's keys from the run seeds that UniformFor uses as keys. ASCII "rollcall".
constexpr uint64_t kStreamKey = 0x726F6C6C63616C6C;

double UnitInterval(uint32_t high, uint32_t low) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32) | low;
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace

std::array<uint32_t, 4> Philox4x32(uint64_t key, std::array<uint32_t, 4> counter) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

double UniformFor(uint64_t run_seed, uint32_t purpose, uint64_t group_id, uint32_t sample_index,
                  uint32_t position) {
  const uint32_t sample_word = (sample_index & (kMaxSamplesPerGroup - 1)) | (purpose << 24);
  const std::array<uint32_t, 4> words =
      Philox4x32(run_seed, {static_cast<uint32_t>(group_id), static_cast<uint32_t>(group_id >> 32),
                            sample_word, position});
  return UnitInterval(words[0], words[1]);
}

PhiloxStream::PhiloxStream(uint64_t seed, uint64_t stream)
    : key_(seed ^ kStreamKey), stream_(stream) {}

uint32_t PhiloxStream::Next32() {
  if (unused_ == 0) {
    words_ =
        Philox4x32(key_, {static_cast<uint32_t>(block_), static_cast<uint32_t>(block_ >> 32),
                          static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)});
    ++block_;
    unused_ = 4;
  }
  return words_[4 - unused_--];
}

uint64_t PhiloxStream::Next64() {
  const uint64_t high = Next32();
  return (high << 32) | Next32();
}

uint64_t PhiloxStream::Below(uint64_t n) {
  // 2^64 mod n values at the bottom would be hit once more often than the rest: draw again for
  // those.
  const uint64_t biased = (0 - n) % n;
  uint64_t word = Next64();
  while (word < biased) word = Next64();
  return word % n;
}

double PhiloxStream::Uniform() {
  const uint32_t high = Next32();
  return UnitInterval(high, Next32());
}

double PhiloxStream::Normal() {
  if (spare_normal_.has_value()) {
    const double value = *spare_normal_;
    spare_normal_.reset();
    return value;
  }
  const double radius = std::sqrt(-2.0 * std::log(1.0 - Uniform()));  // 1 - u is never 0.
  const double angle = 2.0 * std::numbers::pi * Uniform();
  spare_normal_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

}  // namespace rollcall
