#pragma once

// Row kernels: RMSNorm, rotary embedding, gated activations and soft caps. Included only by the
// kernels_*.cc files.

#include "common/model/kernels/simd.h"

namespace rollcall::model::kernels {
namespace {

template <typename P>
struct Pointee;
template <typename T>
struct Pointee<T*> {
  using Type = T;
};
template <typename P>
using PointeeOf = typename Pointee<P>::Type;

// Calls f with a null pointer of the element type, from which the callee takes the type.
template <typename F>
ROLLCALL_INLINE void WithElement(Element type, const F& f) {
  if (type == Element::kFloat32) {
    f(static_cast<float*>(nullptr));
  } else {
    f(static_cast<uint16_t*>(nullptr));
  }
}

template <typename T>
float InverseRms(const T* x, int64_t width, float epsilon) {
  Lanes sum = SplatLanes(0.0f);
  for (int64_t j = 0; j < width; j += kLanes) {
    const Lanes v = LoadLanes(x + j, width - j, 0.0f);
    sum = Fma(v, v, sum);
  }
  return 1.0f / __builtin_sqrtf(SumOf(sum) / static_cast<float>(width) + epsilon);
}

// Sixteen factors of the norm, from column j on.
template <typename T>
ROLLCALL_INLINE Lanes NormFactors(const RmsNormArgs& args, int64_t j) {
  const Lanes weight = LoadLanes(static_cast<const T*>(args.weight) + j, args.width - j, 0.0f);
  return args.unit_offset ? SplatLanes(1.0f) + weight : weight;
}

template <typename T>
void RmsNormRows(const RmsNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(args.x) + i * args.width;
    T* y = static_cast<T*>(args.y) + i * args.width;
    const Lanes inverse = SplatLanes(InverseRms(x, args.width, args.epsilon));
    for (int64_t j = 0; j < args.width; j += kLanes) {
      const int64_t count = args.width - j;
      const Lanes normal = LoadLanes(x + j, count, 0.0f) * inverse;
      StoreLanes(y + j, normal * NormFactors<T>(args, j), count);
    }
  }
}

// With g = dy * factor and r the inverse RMS: dx = r * g - x * r^3 / width * sum(g * x).
template <typename T>
void RmsNormRowsDx(const RmsNormArgs& args, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const T* x = static_cast<const T*>(args.x) + i * args.width;
    const T* dy = static_cast<const T*>(args.dy) + i * args.width;
    T* dx = static_cast<T*>(args.dx) + i * args.width;
    const float r = InverseRms(x, args.width, args.epsilon);
    args.inverse_rms[i] = r;
    Lanes sum = SplatLanes(0.0f);
    for (int64_t j = 0; j < args.width; j += kLanes) {
      const int64_t count = args.width - j;
      const Lanes g = LoadLanes(dy + j, count, 0.0f) * NormFactors<T>(args, j);
      sum = Fma(g, LoadLanes(x + j, count, 0.0f), sum);
    }
    const Lanes scale = SplatLanes(r);
    const Lanes pull = SplatLanes(-(r * r * r) * SumOf(sum) / static_cast<float>(args.width));
    for (int64_t j = 0; j < args.width; j += kLanes) {
      const int64_t count = args.width - j;
      const Lanes g = LoadLanes(dy + j, count, 0.0f) * NormFactors<T>(args, j);
      StoreLanes(dx + j, Fma(LoadLanes(x + j, count, 0.0f), pull, g * scale), count);
    }
  }
}

template <typename T>
void RmsNormColumnsDweight(const RmsNormArgs& args, int64_t rows, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; j += kLanes) {
    const int64_t count = Min(kLanes, args.width - j);
    Lanes sum = SplatLanes(0.0f);
    for (int64_t i = 0; i < rows; ++i) {
      const T* x = static_cast<const T*>(args.x) + i * args.width + j;
      const T* dy = static_cast<const T*>(args.dy) + i * args.width + j;
      const Lanes normal = LoadLanes(x, count, 0.0f) * SplatLanes(args.inverse_rms[i]);
      sum = Fma(LoadLanes(dy, count, 0.0f), normal, sum);
    }
    StoreLanes(args.dweight + j, sum, count);
  }
}

void RmsNorm(const RmsNormArgs& args, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) { RmsNormRows<PointeeOf<decltype(t)>>(args, begin, end); });
}
void RmsNormDx(const RmsNormArgs& args, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) { RmsNormRowsDx<PointeeOf<decltype(t)>>(args, begin, end); });
}
void RmsNormDweight(const RmsNormArgs& args, int64_t rows, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) {
    RmsNormColumnsDweight<PointeeOf<decltype(t)>>(args, rows, begin, end);
  });
}

template <typename T>
void RotateTokens(const RotateArgs& args, int64_t begin, int64_t end) {
  const int64_t half = args.rotary_dim / 2;
  for (int64_t i = begin; i < end; ++i) {
    const float* cosines = args.table + args.positions[i] * args.rotary_dim;
    const float* sines = cosines + half;
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t offset = (i * args.heads + h) * args.head_dim;
      const T* x = static_cast<const T*>(args.x) + offset;
      T* y = static_cast<T*>(args.y) + offset;
      for (int64_t j = 0; j < half; j += kLanes) {
        const int64_t count = half - j;
        const Lanes c = LoadLanes(cosines + j, count, 0.0f);
        Lanes s = LoadLanes(sines + j, count, 0.0f);
        if (args.inverse) s = SplatLanes(0.0f) - s;
        const Lanes low = LoadLanes(x + j, count, 0.0f);
        const Lanes high = LoadLanes(x + half + j, count, 0.0f);
        StoreLanes(y + j, Fma(low, c, SplatLanes(0.0f) - high * s), count);
        StoreLanes(y + half + j, Fma(high, c, low * s), count);
      }
      for (int64_t j = args.rotary_dim; j < args.head_dim; ++j) y[j] = x[j];
    }
  }
}

void Rotate(const RotateArgs& args, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) { RotateTokens<PointeeOf<decltype(t)>>(args, begin, end); });
}

ROLLCALL_INLINE Lanes Sigmoid(const Lanes& x) {
  const Lanes one = SplatLanes(1.0f);
  return one / (one + Exp(SplatLanes(0.0f) - x));
}

// With s the sigmoid of the activation's inner function v(g): value g s, slope s + g s (1 - s) v'.
struct SiluGate {
  static ROLLCALL_INLINE Lanes Inner(const Lanes& g) { return g; }
  static ROLLCALL_INLINE Lanes Slope(const Lanes& g, const Lanes& s) {
    return Fma(g * s, SplatLanes(1.0f) - s, s);
  }
};
// v = 2 sqrt(2 / pi) (g + 0.044715 g^3).
struct GeluTanhGate {
  static constexpr float kLinear = 1.59576912f, kCubic = 0.0713548163f;
  static ROLLCALL_INLINE Lanes Inner(const Lanes& g) {
    return g * Fma(g * g, SplatLanes(kCubic), SplatLanes(kLinear));
  }
  static ROLLCALL_INLINE Lanes Slope(const Lanes& g, const Lanes& s) {
    const Lanes inner = Fma(g * g, SplatLanes(3 * kCubic), SplatLanes(kLinear));
    return Fma(g * s * inner, SplatLanes(1.0f) - s, s);
  }
};

template <typename T, typename Gate>
void GluElements(const GluArgs& args, int64_t begin, int64_t end) {
  const T* gate = static_cast<const T*>(args.gate);
  const T* up = static_cast<const T*>(args.up);
  T* y = static_cast<T*>(args.y);
  for (int64_t j = begin; j < end; j += kLanes) {
    const int64_t count = end - j;
    const Lanes g = LoadLanes(gate + j, count, 0.0f);
    const Lanes value = g * Sigmoid(Gate::Inner(g));
    StoreLanes(y + j, value * LoadLanes(up + j, count, 0.0f), count);
  }
}

template <typename T, typename Gate>
void GluElementsBackward(const GluArgs& args, int64_t begin, int64_t end) {
  const T* gate = static_cast<const T*>(args.gate);
  const T* up = static_cast<const T*>(args.up);
  const T* dy = static_cast<const T*>(args.dy);
  T* dgate = static_cast<T*>(args.dgate);
  T* dup = static_cast<T*>(args.dup);
  for (int64_t j = begin; j < end; j += kLanes) {
    const int64_t count = end - j;
    const Lanes g = LoadLanes(gate + j, count, 0.0f);
    const Lanes d = LoadLanes(dy + j, count, 0.0f);
    const Lanes s = Sigmoid(Gate::Inner(g));
    StoreLanes(dgate + j, d * LoadLanes(up + j, count, 0.0f) * Gate::Slope(g, s), count);
    StoreLanes(dup + j, d * (g * s), count);
  }
}

void Glu(const GluArgs& args, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) {
    using T = PointeeOf<decltype(t)>;
    args.activation == Activation::kSilu ? GluElements<T, SiluGate>(args, begin, end)
                                         : GluElements<T, GeluTanhGate>(args, begin, end);
  });
}
void GluBackward(const GluArgs& args, int64_t begin, int64_t end) {
  WithElement(args.type, [&](auto* t) {
    using T = PointeeOf<decltype(t)>;
    args.activation == Activation::kSilu ? GluElementsBackward<T, SiluGate>(args, begin, end)
                                         : GluElementsBackward<T, GeluTanhGate>(args, begin, end);
  });
}

// d(cap tanh(x / cap)) / dx.
ROLLCALL_INLINE Lanes CapSlope(const Lanes& tanh) {
  return Fma(SplatLanes(0.0f) - tanh, tanh, SplatLanes(1.0f));
}

void SoftCap(const SoftCapArgs& args, int64_t begin, int64_t end) {
  const Lanes cap = SplatLanes(args.cap), inverse = SplatLanes(1.0f / args.cap);
  for (int64_t j = begin; j < end; j += kLanes) {
    const int64_t count = end - j;
    const Lanes tanh = Tanh(LoadLanes(args.x + j, count, 0.0f) * inverse);
    StoreLanes(args.x + j, tanh * cap, count);
    if (args.slope != nullptr) StoreLanes(args.slope + j, CapSlope(tanh), count);
  }
}

}  // namespace
}  // namespace rollcall::model::kernels
