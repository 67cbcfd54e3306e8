#include "services/generator/sampling/token_sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "common/base/status.h"
#include "services/generator/sampling/softmax_weights.h"

namespace rollcall::generator {
namespace {

// Sums before every so many weights are remembered: the second walk is then over one piece.
constexpr size_t kPiece = 1024;

}  // namespace

// The specified reduction order: one after the other, in vocabulary order.
double TokenSampler::Sum() {
  sums_.clear();
  double total = 0;
  for (size_t begin = 0; begin < weights_.size(); begin += kPiece) {
    sums_.push_back(total);
    const size_t end = std::min(weights_.size(), begin + kPiece);
    for (size_t i = begin; i < end; ++i) total += weights_[i];
  }
  return total;
}

size_t TokenSampler::FirstBeyond(double target) const {
  // Sums never fall: the token lies after the last piece that begins at or below the target.
  size_t piece = sums_.size() - 1;
  while (piece > 0 && sums_[piece] > target) --piece;
  double cumulative = sums_[piece];
  for (size_t token = piece * kPiece; token < weights_.size(); ++token) {
    cumulative += weights_[token];
    if (cumulative > target) return token;
  }
  // Rounding may bring the target up to the total; then the last kept token is meant.
  size_t token = weights_.size() - 1;
  while (token > 0 && weights_[token] == 0) --token;
  return token;
}

absl::StatusOr<SampledToken> TokenSampler::Sample(std::span<const float> model_logits,
                                                  const SamplingOptions& options, double uniform,
                                                  const TokenHistory& history) {
  const std::span<const float> logits = processor_.Apply(model_logits, options.rules, history);
  if (options.temperature == 0) {
    ROLLCALL_ASSIGN_OR_RETURN(const size_t best, FirstArgmax(logits));
    return SampledToken{.token = static_cast<uint32_t>(best)};
  }
  weights_.resize(logits.size());
  ROLLCALL_RETURN_IF_ERROR(SoftmaxWeights(logits, options.temperature, weights_).status());
  const double whole = Sum();
  double kept = whole;
  if (options.truncates()) {
    Truncate(logits, options);
    kept = Sum();
  }
  const size_t token = FirstBeyond(uniform * kept);
  SampledToken sampled{.token = static_cast<uint32_t>(token)};
  if (options.reshapes()) {
    sampled.sampling_logprob = static_cast<float>(std::min(0.0, std::log(weights_[token] / kept)));
  }
  if (options.keeps_mass()) {
    sampled.kept_log_mass = static_cast<float>(std::min(0.0, std::log(kept / whole)));
  }
  return sampled;
}

absl::StatusOr<TokenSampler::Kept> TokenSampler::KeptTokens(std::span<const float> model_logits,
                                                            const SamplingOptions& options,
                                                            const TokenHistory& history) {
  const std::span<const float> logits = processor_.Apply(model_logits, options.rules, history);
  weights_.resize(logits.size());
  ROLLCALL_RETURN_IF_ERROR(SoftmaxWeights(logits, options.temperature, weights_).status());
  Truncate(logits, options);
  const double total = Sum();
  Kept kept;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    kept.tokens.push_back(static_cast<uint32_t>(i));
    kept.probabilities.push_back(weights_[i] / total);
  }
  return kept;
}

void TokenSampler::Truncate(std::span<const float> logits, const SamplingOptions& options) {
  if (options.top_k > 0 && options.top_k < logits.size()) KeepTopK(logits, options.top_k);
  if (options.top_p < 1.0f) KeepTopP(logits, options.top_p);
  if (options.min_p > 0.0f) {
    // The largest weight is exp(0) = 1.
    for (double& weight : weights_) {
      if (weight < static_cast<double>(options.min_p)) weight = 0;
    }
  }
}

void TokenSampler::KeepTopK(std::span<const float> logits, uint32_t k) {
  sorted_logits_.assign(logits.begin(), logits.end());
  const auto kth = sorted_logits_.begin() + (k - 1);
  std::nth_element(sorted_logits_.begin(), kth, sorted_logits_.end(), std::greater<>());
  const float threshold = *kth;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < threshold) weights_[i] = 0;
  }
}

void TokenSampler::KeepTopP(std::span<const float> logits, double top_p) {
  order_.clear();
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] > 0) order_.push_back(static_cast<uint32_t>(i));
  }
  const double target = top_p * Sum();
  const auto more_likely = [&logits](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  // Sorted piece by piece, since most of a large vocabulary lies beyond the cut.
  double before = 0;
  size_t sorted = 0;
  for (size_t piece = 64; sorted < order_.size(); piece *= 8) {
    const size_t end = std::min(order_.size(), sorted + piece);
    std::partial_sort(order_.begin() + sorted, order_.begin() + end, order_.end(), more_likely);
    for (; sorted < end; ++sorted) {
      if (sorted > 0 && before >= target) {
        for (size_t i = sorted; i < order_.size(); ++i) weights_[order_[i]] = 0;
        return;
      }
      before += weights_[order_[sorted]];
    }
  }
}

}  // namespace rollcall::generator
