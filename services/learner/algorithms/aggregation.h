#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "rollcall/v1/config.pb.h"

namespace rollcall::learner {

// What the loss of a whole mini-batch is divided by: counted once over all its micro-batches and
// ranks, so their losses and gradients add up to exactly those of the undivided mini-batch.
struct LossDenominators {
  // Sequences with at least one token in the loss; one without any is left out, as in verl.
  int64_t sequences = 0;
  // Tokens in the loss.
  int64_t tokens = 0;
  // constant_length: what a completion's sum is divided by, the most tokens it may have.
  int64_t constant_length = 0;

  LossDenominators& operator+=(const LossDenominators& other) {
    sequences += other.sequences;
    tokens += other.tokens;
    return *this;
  }
};

// token_counts: tokens in the loss of each sequence.
LossDenominators CountDenominators(std::span<const int64_t> token_counts);

// An aggregation is linear in the token losses, so it is a weight for each: the aggregated loss is
// the sum over tokens of weight * loss.
//
//   seq_mean_token_mean  1 / (sequences * tokens of this one)  GRPO, arXiv 2402.03300, equation 3
//   token_mean           1 / tokens                            DAPO, arXiv 2503.14476, equation 8
//   seq_mean_token_sum   1 / sequences                         RLOO, arXiv 2402.14740, equation 4
//   constant_length      1 / (sequences * constant_length)     Dr. GRPO, arXiv 2503.20783, sec. 3.2
//
// token_counts: tokens in the loss of each sequence of this micro-batch; a sequence is never split
// between micro-batches. Returns one weight per token, sequence after sequence.
std::vector<double> ExactTokenWeights(v1::LossAggregation aggregation,
                                      std::span<const int64_t> token_counts,
                                      const LossDenominators& denominators);

// The same, rounded to the float32 of the losses that they multiply.
std::vector<float> TokenWeights(v1::LossAggregation aggregation,
                                std::span<const int64_t> token_counts,
                                const LossDenominators& denominators);

}  // namespace rollcall::learner
