#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace rollcall::cli {

// What the figures of an evaluation are made of: one sample of one prompt.
struct Judged {
  // Absent where no verifier had anything to say; such a sample counts nowhere.
  std::optional<double> reward;
  bool passed = false;
  // What it voted for.
  std::string answer;
};

struct EvaluationFigures {
  // (j, pass@j) for j = 1, 2, 4, … up to the smallest number of judged samples, and that number:
  // the probability that at least one of j samples passes, averaged over the prompts.
  std::vector<std::pair<uint64_t, double>> pass_at;
  // The share of prompts whose most frequent answer passes; answers with equally many votes share
  // the prompt.
  double majority = 0;
  double mean_reward = 0;
  // Of mean_reward: the samples of a prompt are not independent, so it is the deviation of the
  // prompts' means, over the square root of their number. 0 for a single prompt.
  double standard_error = 0;
  // The same of pass@1: the deviation of the prompts' shares of passing samples.
  double pass_standard_error = 0;
  uint64_t prompts = 0;
  uint64_t samples = 0;
  // Samples without a reward.
  uint64_t unjudged = 0;
};

// 1 - C(n - c, j) / C(n, j), for c passing ones of n samples, j <= n: the unbiased estimator of
// Chen et al. 2021 (arXiv 2107.03374, equation 1).
double PassAt(uint64_t n, uint64_t c, uint64_t j);

// The share of the votes' most frequent answers that pass. `samples` holds at least one.
double MajorityPass(std::span<const Judged> samples);

// `prompts`: the samples of each. A prompt without any reward is left out of every mean.
EvaluationFigures Summarize(const std::vector<std::vector<Judged>>& prompts);

}  // namespace rollcall::cli
