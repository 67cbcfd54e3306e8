#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace rollcall {

// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011): a pure function of key and counter. The key's low word is
// the first key word.
std::array<uint32_t, 4> Philox4x32(uint64_t key, std::array<uint32_t, 4> counter);

// Samples of a group that can be addressed: the sample index shares its counter word with the
// purpose.
inline constexpr uint32_t kMaxSamplesPerGroup = 1u << 24;

// The uniform in [0, 1) that decides the token of sample `sample_index` at trajectory position
// `position`; the draw is specified in proto/rollcall/v1/identity.proto (RandomKey). Requires
// sample_index < kMaxSamplesPerGroup and purpose < 256; the high bits of larger values are cut off.
double UniformFor(uint64_t run_seed, uint32_t purpose, uint64_t group_id, uint32_t sample_index,
                  uint32_t position);

// A sequential stream of random numbers, for shuffles and initial weights. Equal (seed, stream)
// give equal numbers; different ones are independent, and independent of every UniformFor draw
// under the same run seed. Copyable: a copy repeats what the original would have given. Not
// thread-safe.
class PhiloxStream {
 public:
  PhiloxStream(uint64_t seed, uint64_t stream);

  uint32_t Next32();
  uint64_t Next64();
  // Unbiased in [0, n); n must be at least 1.
  uint64_t Below(uint64_t n);
  // [0, 1), a multiple of 2^-53.
  double Uniform();
  // Standard normal by Box and Muller's transform. Uses the C library's log, sin and cos: equal on
  // equal libraries.
  double Normal();

 private:
  uint64_t key_;
  uint64_t stream_;
  uint64_t block_ = 0;  // Number of the next block of four words.
  std::array<uint32_t, 4> words_{};
  int unused_ = 0;  // Words of `words_`, from its end, not handed out yet.
  std::optional<double> spare_normal_;
};

}  // namespace rollcall
