#include "services/learner/trainer/pair_totals.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "common/base/status.h"

namespace rollcall::learner {
namespace {

at::Tensor Host(const at::Tensor& tensor) {
  return tensor.detach().to(at::kCPU, at::kDouble).contiguous();
}

}  // namespace

void PairTotals::AddPairs(const at::Tensor& chosen, const at::Tensor& rejected,
                          const at::Tensor& losses) {
  const at::Tensor c = Host(chosen), r = Host(rejected), l = Host(losses);
  for (int64_t i = 0; i < c.numel(); ++i) {
    const double a = c.const_data_ptr<double>()[i], b = r.const_data_ptr<double>()[i];
    right_ += a > b ? 1 : a == b ? 0.5 : 0;
    chosen_.rewards += a;
    rejected_.rewards += b;
    loss_ += l.const_data_ptr<double>()[i];
  }
  const auto pairs = static_cast<double>(c.numel());
  chosen_.count += pairs;
  rejected_.count += pairs;
  count_ += pairs;
}

void PairTotals::AddLabelled(const at::Tensor& rewards, const at::Tensor& desirable,
                             const at::Tensor& losses) {
  const at::Tensor r = Host(rewards), d = Host(desirable), l = Host(losses);
  for (int64_t i = 0; i < r.numel(); ++i) {
    const double reward = r.const_data_ptr<double>()[i];
    const bool liked = d.const_data_ptr<double>()[i] > 0.5;
    Side& side = liked ? chosen_ : rejected_;
    side.rewards += reward;
    side.count += 1;
    loss_ += l.const_data_ptr<double>()[i];
    // What is not a number orders nothing: it counts as the wrong way round.
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    labelled_.emplace_back(!std::isnan(reward) ? reward : liked ? -kInfinity : kInfinity, liked);
  }
  count_ += static_cast<double>(r.numel());
}

absl::Status PairTotals::SumOverRanks(ProcessGroup& group) {
  if (group.size() == 1) return absl::OkStatus();
  const std::initializer_list<double*> sums = {&chosen_.rewards, &chosen_.count, &rejected_.rewards,
                                               &rejected_.count, &right_,        &loss_,
                                               &count_};
  std::vector<double> own;
  for (const double* sum : sums) own.push_back(*sum);
  for (const auto& [reward, desirable] : labelled_)
    own.insert(own.end(), {reward, desirable ? 1.0 : 0.0});
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::vector<std::string> gathered,
      group.AllGather({reinterpret_cast<const char*>(own.data()), own.size() * sizeof(double)}));
  for (double* sum : sums) *sum = 0;
  labelled_.clear();
  for (const std::string& bytes : gathered) {
    std::vector<double> part(bytes.size() / sizeof(double));
    if (part.size() < sums.size()) {
      return absl::DataLossError("another rank's figures are not of this program");
    }
    std::memcpy(part.data(), bytes.data(), part.size() * sizeof(double));
    const double* next = part.data();
    for (double* sum : sums) *sum += *next++;
    for (; next + 1 < part.data() + part.size(); next += 2)
      labelled_.emplace_back(next[0], next[1] > 0);
  }
  return absl::OkStatus();
}

// By ranks, as in Mann and Whitney's statistic.
double PairTotals::OrderedShare() const {
  std::vector<std::pair<double, bool>> sorted = labelled_;
  std::sort(sorted.begin(), sorted.end());
  double ordered = 0, below = 0;
  for (size_t begin = 0; begin < sorted.size();) {
    size_t end = begin;
    double liked = 0, others = 0;
    for (; end < sorted.size() && sorted[end].first == sorted[begin].first; ++end) {
      (sorted[end].second ? liked : others) += 1;
    }
    ordered += liked * (below + 0.5 * others);
    below += others;
    begin = end;
  }
  return ordered / (chosen_.count * rejected_.count);
}

void PairTotals::Report(const std::string& prefix, std::map<std::string, double>& metrics) const {
  if (chosen_.count > 0) metrics[prefix + "chosen_reward"] = chosen_.mean();
  if (rejected_.count > 0) metrics[prefix + "rejected_reward"] = rejected_.mean();
  if (chosen_.count == 0 || rejected_.count == 0) return;
  metrics[prefix + "margin"] = chosen_.mean() - rejected_.mean();
  metrics[prefix + "accuracy"] = labelled_.empty() ? right_ / chosen_.count : OrderedShare();
}

}  // namespace rollcall::learner
