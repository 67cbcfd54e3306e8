#include "services/cli/rlaif/preference.h"

#include <cmath>
#include <numeric>

#include "common/base/philox.h"

namespace rollcall::cli {
namespace {

// Beside the purposes of identity.proto, so that no token is ever drawn with the same random words.
constexpr uint32_t kPrincipleDraws = 128;

}  // namespace

size_t DrawPrinciple(uint64_t seed, uint64_t item, uint32_t round,
                     std::span<const double> weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double point = total * UniformFor(seed, kPrincipleDraws, item, round, /*position=*/0);
  double reached = 0;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    reached += weights[i];
    if (point < reached) return i;
  }
  return weights.size() - 1;
}

double CombineLogOdds(std::span<const Judgement> judgements, std::span<const double> weights) {
  double sum = 0, total = 0;
  for (size_t i = 0; i < judgements.size(); ++i) {
    sum += weights[i] * judgements[i].LogOdds();
    total += weights[i];
  }
  return sum / total;
}

double PreferenceOf(double log_odds) { return 1 / (1 + std::exp(-log_odds)); }

}  // namespace rollcall::cli
