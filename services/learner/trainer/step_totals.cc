#include "services/learner/trainer/step_totals.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <string>
#include <tuple>
#include <type_traits>

#include "common/base/status.h"

namespace rollcall::learner {
namespace {

// A [tokens] tensor's values on the host.
class HostValues {
 public:
  explicit HostValues(const at::Tensor& tensor)
      : tensor_(tensor.detach().to(at::kCPU, at::kFloat).contiguous()),
        data_(tensor_.const_data_ptr<float>()) {}
  float operator[](size_t i) const { return data_[i]; }

 private:
  const at::Tensor tensor_;
  const float* const data_;
};

double Mean(double sum, uint64_t count) {
  return count == 0 ? 0.0 : sum / static_cast<double>(count);
}

}  // namespace

void StepTotals::AddMicroBatch(const PackedBatch& packed, const TokenLoss& loss,
                               const at::Tensor& entropy, std::span<const float> weights) {
  ++micro_batches_;
  tokens_ += packed.token_ids.size();
  loss_tokens_ += weights.size();
  const HostValues total(loss.total), entropies(entropy);
  for (size_t i = 0; i < weights.size(); ++i) {
    loss_ += static_cast<double>(weights[i]) * total[i];
    entropy_ += entropies[i];
  }
  if (loss.policy.loss.defined()) AddPolicy(loss, weights);
  if (loss.kl.defined()) {
    has_kl_ = true;
    const HostValues kl(loss.kl);
    for (size_t i = 0; i < weights.size(); ++i) kl_ += kl[i];
  }
}

void StepTotals::AddPolicy(const TokenLoss& loss, std::span<const float> weights) {
  has_policy_ = true;
  const HostValues policy(loss.policy.loss), ratio(loss.policy.ratio);
  const HostValues low(loss.policy.clipped_low), high(loss.policy.clipped_high);
  for (size_t i = 0; i < weights.size(); ++i) {
    policy_loss_ += static_cast<double>(weights[i]) * policy[i];
    ratio_ += ratio[i];
    min_ratio_ = std::min<double>(min_ratio_, ratio[i]);
    max_ratio_ = std::max<double>(max_ratio_, ratio[i]);
    clipped_low_ += low[i] != 0;
    clipped_high_ += high[i] != 0;
  }
}

void StepTotals::AddPairs(const PackedBatch& packed, const at::Tensor& margins,
                          const at::Tensor& losses, const at::Tensor& entropy, double weight) {
  ++micro_batches_;
  tokens_ += packed.token_ids.size();
  loss_tokens_ += packed.rows.size();
  const HostValues margin(margins), loss(losses), entropies(entropy);
  for (size_t i = 0; i < packed.rows.size(); ++i) entropy_ += entropies[i];
  for (size_t i = 0; i < packed.sequences.size() / 2; ++i) {
    loss_ += weight * loss[i];
    margin_ += margin[i];
    ordered_pairs_ += margin[i] > 0 ? 1 : 0;
    ++pairs_;
  }
}

void StepTotals::AddMicroBatch(uint64_t tokens, double loss, const at::Tensor& entropy) {
  AddMicroBatch(tokens, loss);
  const HostValues entropies(entropy);
  const auto count = static_cast<uint64_t>(entropy.numel());
  loss_tokens_ += count;
  for (uint64_t i = 0; i < count; ++i) entropy_ += entropies[i];
}

void StepTotals::MeasureGap(const TrainBatch& batch, const PackedBatch& packed,
                            const at::Tensor& logprobs) {
  const HostValues learner(logprobs);
  for (size_t i = 0; i < packed.rows.size(); ++i) {
    const size_t place = packed.sequence_of[i];
    const TrainSequence& sequence = batch.sequences[packed.sequences[place]];
    if (!sequence.on_policy) continue;
    double nats = std::abs(static_cast<double>(learner[i]) - packed.behavior_logprobs[i]);
    if (std::isnan(nats)) nats = std::numeric_limits<double>::infinity();
    if (gap_.has_value() && nats <= gap_->nats) continue;
    gap_ =
        LogprobGap{.nats = nats,
                   .group_id = sequence.group_id,
                   .sample_index = sequence.sample_index,
                   .position = static_cast<size_t>(packed.rows[i] + 1 - packed.cu_seqlens[place]),
                   .rollout_logprob = packed.behavior_logprobs[i],
                   .learner_logprob = learner[i]};
  }
}

absl::Status StepTotals::ShareGap(ProcessGroup& group) {
  if (group.size() == 1) return absl::OkStatus();
  static_assert(std::is_trivially_copyable_v<LogprobGap>);
  const std::string_view own =
      gap_.has_value() ? std::string_view(reinterpret_cast<const char*>(&*gap_), sizeof(LogprobGap))
                       : std::string_view();
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<std::string> gathered, group.AllGather(own));
  gap_.reset();
  const auto place = [](const LogprobGap& gap) {
    return std::make_tuple(gap.group_id, gap.sample_index, gap.position);
  };
  for (const std::string& bytes : gathered) {
    if (bytes.size() != sizeof(LogprobGap)) continue;
    LogprobGap gap;
    std::memcpy(&gap, bytes.data(), sizeof(gap));
    const bool larger = !gap_.has_value() || gap.nats > gap_->nats ||
                        (gap.nats == gap_->nats && place(gap) < place(*gap_));
    if (larger) gap_ = gap;
  }
  return absl::OkStatus();
}

absl::Status StepTotals::SumOverRanks(ProcessGroup& group) {
  if (group.size() == 1) return absl::OkStatus();
  const std::initializer_list<double*> sums = {
      &loss_,   &policy_loss_, &kl_,          &entropy_,      &ratio_,
      &margin_, &behavior_.k1, &behavior_.k3, &reference_.k1, &reference_.k3};
  const std::initializer_list<uint64_t*> counts = {
      &clipped_low_, &clipped_high_,  &pairs_,           &ordered_pairs_,   &tokens_,
      &loss_tokens_, &micro_batches_, &behavior_.tokens, &reference_.tokens};
  const std::initializer_list<bool*> flags = {&has_policy_, &has_kl_};
  std::vector<double> own;  // counts are exact in float64 up to 2^53
  for (const double* sum : sums) own.push_back(*sum);
  for (const uint64_t* count : counts) own.push_back(static_cast<double>(*count));
  for (const bool* flag : flags) own.push_back(*flag ? 1 : 0);
  own.insert(own.end(), {min_ratio_, max_ratio_});
  ROLLCALL_ASSIGN_OR_RETURN(
      const std::vector<std::string> gathered,
      group.AllGather({reinterpret_cast<const char*>(own.data()), own.size() * sizeof(double)}));
  std::vector<double> total(own.size());
  for (const std::string& bytes : gathered) {
    std::vector<double> part(own.size());
    if (bytes.size() != part.size() * sizeof(double)) {
      return absl::DataLossError("another rank's figures are not of this program");
    }
    std::memcpy(part.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < part.size(); ++i) total[i] += part[i];
    min_ratio_ = std::min(min_ratio_, part[part.size() - 2]);
    max_ratio_ = std::max(max_ratio_, part.back());
  }
  const double* next = total.data();
  for (double* sum : sums) *sum = *next++;
  for (uint64_t* count : counts) *count = static_cast<uint64_t>(*next++);
  for (bool* flag : flags) *flag = *next++ > 0;
  return absl::OkStatus();
}

void StepTotals::Divergence::Add(double first, double second) {
  const double log_ratio = second - first;
  k1 -= log_ratio;
  k3 += std::expm1(log_ratio) - log_ratio;
  ++tokens;
}

void StepTotals::Divergence::Report(const std::string& name,
                                    std::map<std::string, double>& metrics) const {
  if (tokens == 0) return;
  metrics["train/" + name + "_kl_k1"] = Mean(k1, tokens);
  metrics["train/" + name + "_kl_k3"] = Mean(k3, tokens);
}

void StepTotals::MeasureDivergence(const PackedBatch& packed, const at::Tensor& logprobs) {
  const HostValues policy(logprobs);
  for (size_t i = 0; i < packed.behavior_logprobs.size(); ++i) {
    behavior_.Add(packed.behavior_logprobs[i], policy[i]);
  }
  for (size_t i = 0; i < packed.reference_logprobs.size(); ++i) {
    reference_.Add(policy[i], packed.reference_logprobs[i]);
  }
}

void StepTotals::Report(std::map<std::string, double>& metrics) const {
  metrics["train/loss"] = Mean(loss_, std::max<uint64_t>(1, updates_ + skipped_updates_));
  metrics["train/entropy"] = Mean(entropy_, loss_tokens_);
  metrics["train/grad_norm"] = Mean(grad_norm_, updates_);
  metrics["train/updates"] = static_cast<double>(updates_);
  metrics["train/skipped_updates"] = static_cast<double>(skipped_updates_);
  metrics["train/micro_batches"] = static_cast<double>(micro_batches_);
  metrics["train/tokens"] = static_cast<double>(tokens_);
  metrics["train/loss_tokens"] = static_cast<double>(loss_tokens_);
  if (has_policy_) {
    metrics["train/policy_loss"] =
        Mean(policy_loss_, std::max<uint64_t>(1, updates_ + skipped_updates_));
    metrics["train/ratio_mean"] = Mean(ratio_, loss_tokens_);
    metrics["train/ratio_min"] = min_ratio_;
    metrics["train/ratio_max"] = max_ratio_;
    metrics["train/clip_fraction_low"] = Mean(static_cast<double>(clipped_low_), loss_tokens_);
    metrics["train/clip_fraction_high"] = Mean(static_cast<double>(clipped_high_), loss_tokens_);
  }
  if (pairs_ > 0) {
    metrics["train/pair_margin"] = Mean(margin_, pairs_);
    metrics["train/pair_accuracy"] = Mean(static_cast<double>(ordered_pairs_), pairs_);
  }
  if (has_kl_) metrics["train/kl"] = Mean(kl_, loss_tokens_);
  behavior_.Report("behavior", metrics);
  reference_.Report("reference", metrics);
  if (gap_.has_value()) metrics["train/logprob_gap"] = gap_->nats;
}

void ReportAdvantages(std::span<const float> advantages, std::map<std::string, double>& metrics) {
  if (advantages.empty()) return;
  double sum = 0, squares = 0;
  uint64_t zeros = 0;
  for (const float advantage : advantages) {
    sum += advantage;
    squares += static_cast<double>(advantage) * advantage;
    zeros += advantage == 0 ? 1 : 0;
  }
  const double mean = Mean(sum, advantages.size());
  metrics["train/advantage_mean"] = mean;
  metrics["train/advantage_std"] =
      std::sqrt(std::max(0.0, Mean(squares, advantages.size()) - mean * mean));
  metrics["train/advantage_min"] = *std::min_element(advantages.begin(), advantages.end());
  metrics["train/advantage_max"] = *std::max_element(advantages.begin(), advantages.end());
  metrics["train/zero_advantage_fraction"] = Mean(static_cast<double>(zeros), advantages.size());
}

}  // namespace rollcall::learner
