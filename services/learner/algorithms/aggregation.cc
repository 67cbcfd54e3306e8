#include "services/learner/algorithms/aggregation.h"

namespace rollcall::learner {
namespace {

double Divisor(v1::LossAggregation aggregation, int64_t count,
               const LossDenominators& denominators) {
  const auto sequences = static_cast<double>(denominators.sequences);
  switch (aggregation) {
    case v1::LOSS_AGGREGATION_TOKEN_MEAN:
      return static_cast<double>(denominators.tokens);
    case v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_SUM:
      return sequences;
    case v1::LOSS_AGGREGATION_CONSTANT_LENGTH:
      return sequences * static_cast<double>(denominators.constant_length);
    default:
      return sequences * static_cast<double>(count);
  }
}

}  // namespace

LossDenominators CountDenominators(std::span<const int64_t> token_counts) {
  LossDenominators denominators;
  for (const int64_t count : token_counts) {
    denominators.tokens += count;
    denominators.sequences += count > 0 ? 1 : 0;
  }
  return denominators;
}

std::vector<double> ExactTokenWeights(v1::LossAggregation aggregation,
                                      std::span<const int64_t> token_counts,
                                      const LossDenominators& denominators) {
  std::vector<double> weights;
  for (const int64_t count : token_counts) {
    weights.insert(weights.end(), static_cast<size_t>(count),
                   1.0 / Divisor(aggregation, count, denominators));
  }
  return weights;
}

std::vector<float> TokenWeights(v1::LossAggregation aggregation,
                                std::span<const int64_t> token_counts,
                                const LossDenominators& denominators) {
  const std::vector<double> exact = ExactTokenWeights(aggregation, token_counts, denominators);
  return {exact.begin(), exact.end()};
}

}  // namespace rollcall::learner
