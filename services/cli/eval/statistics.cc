#include "services/cli/eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

namespace rollcall::cli {
namespace {

std::vector<uint64_t> Budgets(uint64_t most) {
  std::vector<uint64_t> budgets;
  for (uint64_t j = 1; j < most; j *= 2) budgets.push_back(j);
  if (most > 0) budgets.push_back(most);
  return budgets;
}

// Of the mean of `values`, which must be at least one: sqrt(sum of squared deviations / (n - 1) / n),
// and 0 for a single one.
double StandardError(const std::vector<double>& values, double mean) {
  if (values.size() < 2) return 0;
  double squares = 0;
  for (const double value : values) squares += std::pow(value - mean, 2);
  const auto count = static_cast<double>(values.size());
  return std::sqrt(squares / (count - 1) / count);
}

}  // namespace

double PassAt(uint64_t n, uint64_t c, uint64_t j) {
  if (n - c < j) return 1;
  double none = 1;  // the probability that all j are failing ones, as a product: no overflow
  for (uint64_t i = n - c + 1; i <= n; ++i) none *= 1 - static_cast<double>(j) / i;
  return 1 - none;
}

double MajorityPass(std::span<const Judged> samples) {
  struct Votes {
    uint64_t all = 0;
    uint64_t passed = 0;
  };
  std::map<std::string, Votes> answers;
  uint64_t most = 0;
  for (const Judged& sample : samples) {
    Votes& votes = answers[sample.answer];
    votes.passed += sample.passed ? 1 : 0;
    most = std::max(most, ++votes.all);
  }
  double sum = 0;
  int winners = 0;
  for (const auto& [answer, votes] : answers) {
    if (votes.all != most) continue;
    ++winners;
    // Equal answers pass together, except where the vote is not on all that is judged.
    sum += static_cast<double>(votes.passed) / votes.all;
  }
  return sum / winners;
}

EvaluationFigures Summarize(const std::vector<std::vector<Judged>>& prompts) {
  EvaluationFigures figures;
  std::vector<std::pair<uint64_t, uint64_t>> counts;  // judged and passed, of each prompt
  std::vector<double> means;
  double majority = 0, reward_sum = 0;
  uint64_t fewest = 0;
  for (const std::vector<Judged>& samples : prompts) {
    std::vector<Judged> judged;
    std::copy_if(samples.begin(), samples.end(), std::back_inserter(judged),
                 [](const Judged& sample) { return sample.reward.has_value(); });
    figures.unjudged += samples.size() - judged.size();
    if (judged.empty()) continue;
    double sum = 0;
    uint64_t passed = 0;
    for (const Judged& sample : judged) {
      sum += *sample.reward;
      passed += sample.passed ? 1 : 0;
    }
    counts.emplace_back(judged.size(), passed);
    means.push_back(sum / static_cast<double>(judged.size()));
    reward_sum += means.back();
    majority += MajorityPass(judged);
    figures.samples += judged.size();
    fewest = fewest == 0 ? judged.size() : std::min<uint64_t>(fewest, judged.size());
  }
  figures.prompts = counts.size();
  if (counts.empty()) return figures;
  const auto count = static_cast<double>(counts.size());
  for (const uint64_t j : Budgets(fewest)) {
    double sum = 0;
    for (const auto& [n, c] : counts) sum += PassAt(n, c, j);
    figures.pass_at.emplace_back(j, sum / count);
  }
  figures.majority = majority / count;
  figures.mean_reward = reward_sum / count;
  figures.standard_error = StandardError(means, figures.mean_reward);
  std::vector<double> rates;
  for (const auto& [n, c] : counts) rates.push_back(static_cast<double>(c) / n);
  figures.pass_standard_error = StandardError(rates, figures.pass_at.front().second);
  return figures;
}

}  // namespace rollcall::cli
