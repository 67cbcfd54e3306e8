#include "services/learner/algorithms/aggregation.h"

namespace rollcall::learner {

LossDenominators CountDenominators(std::span<const int64_t> token_counts) {
  LossDenominators denominators;
  for (const int64_t count : token_counts) {
    denominators.tokens += count;
    denominators.sequences += count > 0 ? 1 : 0;
  }
  return denominators;
}

std::vector<float> TokenWeights(v1::LossAggregation aggregation,
                                std::span<const int64_t> token_counts,
                                const LossDenominators& denominators) {
  std::vector<float> weights;
  for (const int64_t count : token_counts) {
    const double divisor =
        aggregation == v1::LOSS_AGGREGATION_TOKEN_MEAN
            ? static_cast<double>(denominators.tokens)
            : static_cast<double>(denominators.sequences) * static_cast<double>(count);
    weights.insert(weights.end(), static_cast<size_t>(count), static_cast<float>(1.0 / divisor));
  }
  return weights;
}

}  // namespace rollcall::learner
