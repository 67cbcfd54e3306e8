#pragma once

// Vectors of the instruction set this file is compiled for, and the few functions every kernel is
// written in. Included only by the kernels_*.cc files. Everything is in an anonymous namespace and
// nothing of the standard library is used, so that no inline function compiled for a wide
// instruction set can be linked into other code. Contraction is off in those files: a fused
// multiply-add happens exactly where Fma is written.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "common/model/kernels/kernels.h"

namespace rollcall::model::kernels {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = kLanes / kWidth;

using Vec = float __attribute__((vector_size(kWidth * 4)));
using VecI = int32_t __attribute__((vector_size(kWidth * 4)));
using VecU = uint32_t __attribute__((vector_size(kWidth * 4)));
using VecH = uint16_t __attribute__((vector_size(kWidth * 2)));
using UnalignedVec = float __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
using UnalignedVecH = uint16_t __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

#define ROLLCALL_INLINE inline __attribute__((always_inline))

ROLLCALL_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
ROLLCALL_INLINE int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

ROLLCALL_INLINE Vec Splat(float x) { return Vec{} + x; }

ROLLCALL_INLINE Vec Fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

ROLLCALL_INLINE float Widen(uint16_t x) {
  const uint32_t bits = uint32_t{x} << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
ROLLCALL_INLINE float Widen(float x) { return x; }

ROLLCALL_INLINE Vec Load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
ROLLCALL_INLINE Vec Load(const uint16_t* p) {
  const VecH half = *reinterpret_cast<const UnalignedVecH*>(p);
  return (Vec)(__builtin_convertvector(half, VecU) << 16);
}
ROLLCALL_INLINE void Store(float* p, Vec x) { *reinterpret_cast<UnalignedVec*>(p) = x; }
ROLLCALL_INLINE void Store(uint16_t* p, Vec x) {
  const VecU bits = (VecU)x;
  const VecU rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU quiet_nan = VecU{} + 0x7fc0u;
  const VecU result = (x == x) ? rounded : quiet_nan;
  *reinterpret_cast<UnalignedVecH*>(p) = __builtin_convertvector(result, VecH);
}

// Sixteen lanes, the unit of the documented sums, as one, two or four vectors.
struct Lanes {
  Vec part[kParts];
};

#define ROLLCALL_EACH_PART(i) _Pragma("GCC unroll 4") for (int i = 0; i < kParts; ++i)

ROLLCALL_INLINE Lanes SplatLanes(float x) {
  Lanes r;
  ROLLCALL_EACH_PART(i) r.part[i] = Splat(x);
  return r;
}
template <typename T>
ROLLCALL_INLINE Lanes LoadLanes(const T* p) {
  Lanes r;
  ROLLCALL_EACH_PART(i) r.part[i] = Load(p + i * kWidth);
  return r;
}
// Lanes past `count` hold `fill`.
template <typename T>
ROLLCALL_INLINE Lanes LoadLanes(const T* p, int64_t count, float fill) {
  if (count >= kLanes) return LoadLanes(p);
  float buffer[kLanes];
  for (int i = 0; i < kLanes; ++i) buffer[i] = i < count ? Widen(p[i]) : fill;
  return LoadLanes(buffer);
}
template <typename T>
ROLLCALL_INLINE void StoreLanes(T* p, const Lanes& x) {
  ROLLCALL_EACH_PART(i) Store(p + i * kWidth, x.part[i]);
}
template <typename T>
ROLLCALL_INLINE void StoreLanes(T* p, const Lanes& x, int64_t count) {
  if (count >= kLanes) return StoreLanes(p, x);
  T buffer[kLanes];
  StoreLanes(buffer, x);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

#define ROLLCALL_LANEWISE(name, parameters, expression) \
  ROLLCALL_INLINE Lanes name parameters {               \
    Lanes r;                                            \
    ROLLCALL_EACH_PART(i) r.part[i] = expression;       \
    return r;                                           \
  }
ROLLCALL_LANEWISE(operator+, (const Lanes& a, const Lanes& b), a.part[i] + b.part[i])
ROLLCALL_LANEWISE(operator-, (const Lanes& a, const Lanes& b), a.part[i] - b.part[i])
ROLLCALL_LANEWISE(operator*, (const Lanes& a, const Lanes& b), a.part[i] * b.part[i])
ROLLCALL_LANEWISE(operator/, (const Lanes& a, const Lanes& b), a.part[i] / b.part[i])
ROLLCALL_LANEWISE(Fma, (const Lanes& a, const Lanes& b, const Lanes& c),
                  Fma(a.part[i], b.part[i], c.part[i]))
ROLLCALL_LANEWISE(Larger, (const Lanes& a, const Lanes& b),
                  a.part[i] > b.part[i] ? a.part[i] : b.part[i])

ROLLCALL_INLINE float SumOf(const Lanes& x) {
  float lane[kLanes];
  StoreLanes(lane, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}
ROLLCALL_INLINE float LargestOf(const Lanes& x) {
  float lane[kLanes];
  StoreLanes(lane, x);
  float largest = lane[0];
  for (int i = 1; i < kLanes; ++i) largest = lane[i] > largest ? lane[i] : largest;
  return largest;
}

// e^x to about one unit in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, then the Taylor
// polynomial of degree 7 (truncation 0.3466^8 / 8! = 5e-9). Clamped to [-87, 88], where 2^n is a
// normal number: exp(-87) = 1.6e-38 stands for everything below it. A NaN stays a NaN.
ROLLCALL_INLINE Vec Exp(Vec x) {
  x = x < Splat(-87.0f) ? Splat(-87.0f) : x;
  x = x > Splat(88.0f) ? Splat(88.0f) : x;
  // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
  const Vec magic = Splat(12582912.0f);
  const Vec shifted = Fma(x, Splat(1.44269504f), magic);
  const Vec n = shifted - magic;
  // ln 2 in two parts; the first has 12 trailing zero bits, so that n times it is exact.
  Vec r = Fma(n, Splat(-0.693145752f), x);
  r = Fma(n, Splat(-1.42860677e-6f), r);
  Vec p = Splat(1.0f / 5040);
  p = Fma(p, r, Splat(1.0f / 720));
  p = Fma(p, r, Splat(1.0f / 120));
  p = Fma(p, r, Splat(1.0f / 24));
  p = Fma(p, r, Splat(1.0f / 6));
  p = Fma(p, r, Splat(0.5f));
  p = Fma(p, r, Splat(1.0f));
  p = Fma(p, r, Splat(1.0f));
  const VecI exponent = ((VecI)shifted - (VecI)magic + 127) << 23;
  return p * (Vec)exponent;
}
ROLLCALL_LANEWISE(Exp, (const Lanes& x), Exp(x.part[i]))

// tanh x to a few units in the last place. Below 0.35 the Taylor polynomial of degree 11 (the next
// term is 4e-9 of the first); above, sign(x) (1 - 2 / (1 + e^|2x|)), whose result is at least 0.33,
// so that the subtraction loses less than two bits.
ROLLCALL_INLINE Vec Tanh(Vec x) {
  const Vec one = Splat(1.0f), size = (Vec)((VecI)x & 0x7fffffff);
  const Vec z = x * x;
  Vec p = Splat(-1382.0f / 155925);
  p = Fma(p, z, Splat(62.0f / 2835));
  p = Fma(p, z, Splat(-17.0f / 315));
  p = Fma(p, z, Splat(2.0f / 15));
  p = Fma(p, z, Splat(-1.0f / 3));
  const Vec near_zero = Fma(p * z, x, x);
  const Vec far = one - Splat(2.0f) / (one + Exp(size + size));
  const Vec signed_far = (Vec)((VecI)far | ((VecI)x & (int32_t)0x80000000));
  // False for a NaN, which the polynomial hands on.
  return size >= Splat(0.35f) ? signed_far : near_zero;
}
ROLLCALL_LANEWISE(Tanh, (const Lanes& x), Tanh(x.part[i]))

}  // namespace
}  // namespace rollcall::model::kernels
