#include "services/learner/algorithms/pairwise_loss.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>

namespace rollcall::learner {
namespace {

// Of DiscoPOP's blend; the paper's and TRL's value.
constexpr double kDiscopopTau = 0.05;

// -log σ(x)
at::Tensor Logistic(const at::Tensor& x) { return at::log_sigmoid(x).neg(); }

// The loss of a margin whose sign is right with probability 1 - smoothing.
at::Tensor Smoothed(const at::Tensor& margin, double smoothing) {
  if (smoothing == 0) return Logistic(margin);
  return Logistic(margin).mul(1 - smoothing).add(Logistic(margin.neg()), smoothing);
}

at::Tensor Robust(const at::Tensor& margin, double smoothing) {
  return Logistic(margin)
      .mul(1 - smoothing)
      .sub(Logistic(margin.neg()), smoothing)
      .div(1 - 2 * smoothing);
}

at::Tensor Discopop(const at::Tensor& margin) {
  const at::Tensor blend = at::sigmoid(margin.div(kDiscopopTau));
  return Logistic(margin).mul(blend.neg().add(1)).add(at::exp(margin.neg()).mul(blend));
}

// 1 - σ(x)
at::Tensor Miss(const at::Tensor& x) { return at::sigmoid(x).neg().add(1); }

}  // namespace

at::Tensor PairwiseLoss(const PairwiseOptions& options, const PairLogprobs& pairs) {
  const double beta = options.beta;
  at::Tensor chosen = pairs.chosen.sub(pairs.reference_chosen.detach());
  at::Tensor rejected = pairs.rejected.sub(pairs.reference_rejected.detach());
  if (options.type == PairwiseLossType::kSigmoidNorm ||
      (options.type == PairwiseLossType::kIpo && options.mean_log_prob)) {
    chosen = chosen.div(pairs.chosen_tokens);
    rejected = rejected.div(pairs.rejected_tokens);
  }
  const at::Tensor margin = chosen.sub(rejected);
  switch (options.type) {
    case PairwiseLossType::kIpo:
      return margin.sub(1 / (2 * beta)).square();
    case PairwiseLossType::kHinge:
      return at::relu(margin.mul(beta).neg().add(1));
    case PairwiseLossType::kRobust:
      return Robust(margin.mul(beta), options.label_smoothing);
    case PairwiseLossType::kApoZero:
      return Miss(chosen.mul(beta)).add(at::sigmoid(rejected.mul(beta)));
    case PairwiseLossType::kApoDown:
      return at::sigmoid(chosen.mul(beta)).add(Miss(margin.mul(beta)));
    case PairwiseLossType::kNcaPair: {
      const at::Tensor reward = chosen.mul(beta);
      return Logistic(reward)
          .add(Logistic(reward.neg()), 0.5)
          .add(Logistic(rejected.mul(-beta)), 0.5);
    }
    case PairwiseLossType::kBcoPair:
      return Logistic(chosen.mul(beta)).add(Logistic(rejected.mul(-beta)));
    case PairwiseLossType::kSppoHard:
      return chosen.sub(0.5 / beta).square().add(rejected.add(0.5 / beta).square());
    case PairwiseLossType::kDiscopop:
      return Discopop(margin.mul(beta));
    case PairwiseLossType::kSigmoid:
    case PairwiseLossType::kSigmoidNorm:
      break;
  }
  return Smoothed(margin.mul(beta), options.label_smoothing);
}

std::vector<bool> FirstIsPreferred(const std::vector<double>& first,
                                   const std::vector<double>& second) {
  std::vector<bool> preferred;
  for (size_t i = 0; i < first.size(); ++i) preferred.push_back(first[i] >= second[i]);
  return preferred;
}

}  // namespace rollcall::learner
