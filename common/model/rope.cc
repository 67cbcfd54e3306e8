#include "common/model/rope.h"

#include <algorithm>
#include <cmath>

namespace rollcall::model {
namespace {

constexpr double kTwoPi = 6.283185307179586;

double Llama3Frequency(const RopeScaling& scaling, double frequency) {
  // Long waves are stretched by the factor, short ones kept, those between blended.
  const double turns =
      static_cast<double>(scaling.original_max_position_embeddings) * frequency / kTwoPi;
  const double blend =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  const double kept = std::min(1.0, std::max(0.0, blend));
  return (1.0 - kept) * frequency / scaling.factor + kept * frequency;
}

// The base that keeps the lowest frequency inside the trained range (NTK-aware scaling).
double DynamicTheta(const Rope& rope, double rotary_dim, int64_t context) {
  const double trained = static_cast<double>(rope.scaling.original_max_position_embeddings);
  const double length = std::max(trained, static_cast<double>(context));
  const double stretch = rope.scaling.factor * length / trained - (rope.scaling.factor - 1.0);
  return rope.theta * std::pow(stretch, rotary_dim / (rotary_dim - 2.0));
}

// Share of frequency i that YaRN keeps; the rest is divided by the factor (arXiv 2309.00071,
// section 3.2).
class YarnRamp {
 public:
  YarnRamp(const Rope& rope, double rotary_dim) {
    const RopeScaling& scaling = rope.scaling;
    // Dimension whose wave turns `turns` times within the trained context.
    const auto dimension = [&](double turns) {
      const double length = static_cast<double>(scaling.original_max_position_embeddings);
      return rotary_dim * std::log(length / (turns * kTwoPi)) / (2.0 * std::log(rope.theta));
    };
    low_ = dimension(scaling.beta_fast);
    high_ = dimension(scaling.beta_slow);
    if (scaling.truncate) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, rotary_dim - 1.0);
    if (low_ == high_) high_ += 0.001;  // the reference's guard against a division by zero
  }

  double Kept(double i) const {
    return 1.0 - std::min(1.0, std::max(0.0, (i - low_) / (high_ - low_)));
  }

 private:
  double low_, high_;
};

}  // namespace

std::vector<float> RopeFrequencies(const Rope& rope, int64_t rotary_dim, int64_t context) {
  using Type = RopeScaling::Type;
  const RopeScaling& scaling = rope.scaling;
  const auto dim = static_cast<double>(rotary_dim);
  const double theta =
      scaling.type == Type::kDynamic ? DynamicTheta(rope, dim, context) : rope.theta;
  const std::vector<double>& stretch = context > scaling.original_max_position_embeddings
                                           ? scaling.long_factor
                                           : scaling.short_factor;
  const YarnRamp ramp(rope, dim);
  std::vector<float> frequencies(rotary_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / dim;
    double frequency = 1.0 / std::pow(theta, exponent);
    if (scaling.type == Type::kLinear) frequency /= scaling.factor;
    if (scaling.type == Type::kLlama3) frequency = Llama3Frequency(scaling, frequency);
    if (scaling.type == Type::kLongRope) frequency /= stretch[i];
    if (scaling.type == Type::kYarn) {
      const double kept = ramp.Kept(static_cast<double>(i));
      frequency = frequency / scaling.factor * (1.0 - kept) + frequency * kept;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace rollcall::model
