#include "services/learner/algorithms/token_advantage.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace rollcall::learner {
namespace {

std::vector<double> ToDoubles(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().to(at::kDouble).contiguous();
  const double* data = dense.const_data_ptr<double>();
  return {data, data + dense.numel()};
}

at::Tensor Like(const at::Tensor& like, const std::vector<double>& values) {
  return at::tensor(values, at::kDouble).to(like.scalar_type());
}

}  // namespace

GaeEstimate GeneralizedAdvantages(const at::Tensor& rewards, const at::Tensor& values,
                                  const at::Tensor& mask, std::span<const int64_t> lengths,
                                  const GaeOptions& options) {
  const std::vector<double> r = ToDoubles(rewards), v = ToDoubles(values), m = ToDoubles(mask);
  std::vector<double> advantages(r.size(), 0.0), returns(r.size(), 0.0);
  size_t begin = 0;
  for (const int64_t length : lengths) {
    const size_t end = begin + static_cast<size_t>(length);
    double next_value = 0, running = 0;
    for (size_t t = end; t-- > begin;) {
      const bool kept = m[t] != 0;
      const bool skipped = !kept && options.carry_over_masked;
      const double value = kept || options.carry_over_masked ? v[t] : 0.0;
      const double reward = kept || options.carry_over_masked ? r[t] : 0.0;
      if (!skipped) {
        const double delta = reward + options.gamma * next_value - value;
        running = delta + options.gamma * options.lambda * running;
        next_value = value;
      }
      advantages[t] = running;
      returns[t] = running + value;
    }
    begin = end;
  }
  return {.advantages = Like(rewards, advantages), .returns = Like(rewards, returns)};
}

at::Tensor RewardToGo(const at::Tensor& rewards, const at::Tensor& mask,
                      std::span<const int64_t> lengths, double gamma, GapRule gaps) {
  const std::vector<double> r = ToDoubles(rewards), m = ToDoubles(mask);
  std::vector<double> result(r.size(), 0.0);
  size_t begin = 0;
  for (const int64_t length : lengths) {
    const size_t end = begin + static_cast<size_t>(length);
    double running = 0;
    for (size_t t = end; t-- > begin;) {
      const bool kept = m[t] != 0;
      if (kept || gaps == GapRule::kDropMaskedRewards) {
        running = (kept ? r[t] : 0.0) + gamma * running;
      }
      result[t] = running;
    }
    begin = end;
  }
  return Like(rewards, result);
}

at::Tensor Whiten(const at::Tensor& values, const at::Tensor& mask, const WhitenOptions& options) {
  std::vector<double> x = ToDoubles(values);
  const std::vector<double> m = ToDoubles(mask);
  double count = 0, sum = 0, squares = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (m[i] == 0) continue;
    ++count;
    sum += x[i];
  }
  const double mean = count > 0 ? sum / (count + options.added_count) : 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (m[i] != 0) squares += (x[i] - mean) * (x[i] - mean);
  }
  if (count < 2 && options.keep_mean) return values;
  if (count < 2) return Like(values, std::vector<double>(x.size(), 0.0));
  const double bessel = options.unbiased ? count / (count - 1) : 1.0;
  const double variance = squares / (count + options.added_count) * bessel + options.added;
  const double scale = 1.0 / std::sqrt(std::max(variance, options.least));
  const double kept = options.keep_mean ? mean : 0.0;
  for (double& value : x) value = (value - mean) * (std::isfinite(scale) ? scale : 0.0) + kept;
  return Like(values, x);
}

}  // namespace rollcall::learner
