#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "services/learner/trainer/process_group.h"

namespace at {
class Tensor;
}

namespace rollcall::learner {

// Rewards of the preferred and the other side, summed in float64: of pairs, or of labelled
// completions, where every desirable one is held against every undesirable one.
//
// Accuracy is the share of them in which the preferred side has the larger reward; a tie counts
// half, so that a model without any preference has 0.5 (TRL counts a tie as wrong).
class PairTotals {
 public:
  // chosen, rejected, losses: [pairs].
  void AddPairs(const at::Tensor& chosen, const at::Tensor& rejected, const at::Tensor& losses);
  // rewards, desirable (1 or 0), losses: [sequences].
  void AddLabelled(const at::Tensor& rewards, const at::Tensor& desirable,
                   const at::Tensor& losses);

  // Collective: every rank has the sums of all.
  absl::Status SumOverRanks(ProcessGroup& group);

  double loss() const { return loss_; }
  // Pairs, or labelled completions.
  double count() const { return count_; }

  // <prefix>accuracy, …margin (mean reward of the chosen less that of the rejected),
  // …chosen_reward and …rejected_reward. Of labelled completions of one class only that class's
  // reward. Without any: nothing.
  void Report(const std::string& prefix, std::map<std::string, double>& metrics) const;

 private:
  struct Side {
    double rewards = 0, count = 0;
    double mean() const { return rewards / count; }
  };
  double OrderedShare() const;

  Side chosen_, rejected_;
  double right_ = 0;
  double loss_ = 0, count_ = 0;
  std::vector<std::pair<double, bool>> labelled_;  // reward, desirable
};

}  // namespace rollcall::learner
