#include "services/generator/sampling/softmax_weights.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace rollcall::generator {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Compiled for wider vectors too, and chosen when the program starts: the same operations on each
// element, so the same bits.
#define ROLLCALL_WIDE_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define ROLLCALL_WIDE_CLONES
#endif

// exp(x) for x <= 0; 0 below -700, where a probability no longer matters and exponents would leave
// the normal range.
//
// x = k ln2 + r with |r| <= ln2 / 2, ln2 in two parts so that k * kLn2High is exact (Cody and
// Waite); exp(r) by its Taylor polynomial of degree 13, whose first left-out term is below 2^-57
// relative. This file is compiled without contraction into fused multiply-adds.
inline __attribute__((always_inline)) double ExpOfNegative(double x) {
  constexpr double kInverseLn2 = 1.4426950408889634;
  constexpr double kLn2High = 6.93147180369123816490e-01;  // 32 significant bits
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kRoundingShift = 0x1.8p52;  // adding it rounds to the nearest integer
  const double clamped = x < -700.0 ? -700.0 : x;
  const double shifted = clamped * kInverseLn2 + kRoundingShift;
  const double k = shifted - kRoundingShift;
  const double r = (clamped - k * kLn2High) - k * kLn2Low;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  // The low bits of `shifted` hold k; as an exponent they scale by 2^k.
  const uint64_t exponent = std::bit_cast<uint64_t>(shifted) << 52;
  const double scaled = std::bit_cast<double>(std::bit_cast<uint64_t>(p) + exponent);
  return x < -700.0 ? 0.0 : scaled;
}

absl::Status NotFinite() {
  return absl::InternalError("the model's logits are not finite: its weights are broken");
}

// The largest logit; NaN when there is none to sample from.
float CheckedMax(std::span<const float> logits) {
  float max = -kInfinity;
  bool finite = true;
  for (const float logit : logits) {
    finite &= logit < kInfinity;  // false for NaN too
    max = logit > max ? logit : max;
  }
  return finite && max > -kInfinity ? max : std::numeric_limits<float>::quiet_NaN();
}

ROLLCALL_WIDE_CLONES void FillWeights(const float* logits, size_t count, double max,
                                      double temperature, double* weights) {
  for (size_t i = 0; i < count; ++i) {
    weights[i] = ExpOfNegative((static_cast<double>(logits[i]) - max) / temperature);
  }
}

}  // namespace

absl::StatusOr<float> SoftmaxWeights(std::span<const float> logits, double temperature,
                                     std::span<double> weights) {
  const float max = CheckedMax(logits);
  if (std::isnan(max)) return NotFinite();
  FillWeights(logits.data(), logits.size(), static_cast<double>(max), temperature, weights.data());
  return max;
}

absl::StatusOr<size_t> FirstArgmax(std::span<const float> logits) {
  const float max = CheckedMax(logits);
  if (std::isnan(max)) return NotFinite();
  size_t index = 0;
  while (logits[index] != max) ++index;
  return index;
}

}  // namespace rollcall::generator
