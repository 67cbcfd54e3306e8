#include "services/learner/algorithms/preference_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/sigmoid.h>

#include <algorithm>

namespace rollcall::learner {
namespace {

// Log-prob of a completion that is taken as certain: float32's 1 - p is exact to here, and the odds
// at 0 would be infinite.
constexpr double kCertain = -1e-7;

// ln(1 - e^x) for x < 0. expm1 keeps its digits near 0, and far below 0 it is -1 to rounding.
at::Tensor LogOneMinusExp(const at::Tensor& x) { return at::log(at::expm1(x).neg()); }

at::Tensor LogOdds(const at::Tensor& logprob) {
  const at::Tensor bounded = logprob.clamp_max(kCertain);
  return bounded.sub(LogOneMinusExp(bounded));
}

}  // namespace

at::Tensor SimpoLoss(double beta, double target_margin, double label_smoothing,
                     const at::Tensor& chosen, const at::Tensor& rejected) {
  const at::Tensor margin = chosen.sub(rejected).mul(beta).sub(target_margin);
  const at::Tensor loss = at::log_sigmoid(margin).neg();
  if (label_smoothing == 0) return loss;
  return loss.mul(1 - label_smoothing).sub(at::log_sigmoid(margin.neg()), label_smoothing);
}

at::Tensor LogOddsRatio(const at::Tensor& chosen, const at::Tensor& rejected) {
  return LogOdds(chosen).sub(LogOdds(rejected));
}

at::Tensor OddsRatioLoss(const at::Tensor& chosen, const at::Tensor& rejected) {
  return at::log_sigmoid(LogOddsRatio(chosen, rejected)).neg();
}

at::Tensor LabelledLoss(const LabelledOptions& options, const at::Tensor& log_ratio,
                        const at::Tensor& desirable, double kl) {
  // +1 and -1, and the weight of each.
  const at::Tensor sign = desirable.mul(2).sub(1);
  const at::Tensor weight = desirable.mul(options.desirable_weight - options.undesirable_weight)
                                .add(options.undesirable_weight);
  const at::Tensor value = at::sigmoid(log_ratio.sub(kl).mul(options.beta).mul(sign));
  return value.neg().add(1).mul(weight);
}

double KlBaseline(double log_ratio_sum, double count) {
  return count > 0 ? std::max(0.0, log_ratio_sum / count) : 0.0;
}

}  // namespace rollcall::learner
