#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rollcall::cli {

// From principles to labels: what is drawn and how judgements are put together. Pure.

// The principle under which answer `item` is criticised and revised in round `round`: one of `weights.size()`, each as
// often as its weight says; a function of its arguments alone. `weights` are above 0, at least one.
size_t DrawPrinciple(uint64_t seed, uint64_t item, uint32_t round, std::span<const double> weights);

// How the judge compared two answers under one principle, shown in both orders. In nats.
struct Judgement {
  // log p(label_a) - log p(label_b) where the first answer is shown as A.
  double shown_first = 0;
  // log p(label_b) - log p(label_a) where the first answer is shown as B.
  double shown_second = 0;

  // For the first answer. What the judge gives to a place whatever stands there has opposite signs in the two orders and
  // drops out.
  double LogOdds() const { return (shown_first + shown_second) / 2; }
  // By how much an answer gains from being shown as A.
  double PositionBias() const { return (shown_first - shown_second) / 2; }
  // Both orders name the same answer.
  bool OrdersAgree() const {
    return (shown_first > 0 && shown_second > 0) || (shown_first < 0 && shown_second < 0);
  }
};

// Mean of the judgements' log-odds, each principle as much as its weight says. As many as weights.
double CombineLogOdds(std::span<const Judgement> judgements, std::span<const double> weights);

// 1 / (1 + exp(-log_odds)): the probability that the first answer is the better one.
double PreferenceOf(double log_odds);

}  // namespace rollcall::cli
