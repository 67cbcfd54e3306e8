#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "services/generator/sampling/logit_rules.h"

namespace rollcall::generator {

// How the next token is drawn; the fields and ranges of SamplingParams in generator.proto.
struct SamplingOptions {
  float temperature = 1.0f;  // 0: greedy
  uint32_t top_k = 0;        // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  LogitRules rules;

  // Whether some tokens may be cut off. Greedy decoding does not draw, so nothing is cut.
  bool truncates() const { return temperature > 0 && (top_k > 0 || top_p < 1.0f || min_p > 0.0f); }
  // Whether tokens come from another distribution than the model's own at the temperature. Greedy
  // decoding has none.
  bool reshapes() const { return temperature > 0 && (truncates() || rules.any()); }
  // Whether the two differ by one factor on all tokens that can be drawn: the mass that truncation
  // kept.
  bool keeps_mass() const { return truncates() && !rules.any(); }
};

// A drawn token. Log-probs, in nats.
struct SampledToken {
  uint32_t token = 0;
  float sampling_logprob = 0;  // under the distribution it was drawn from; 0 unless reshapes()
  float kept_log_mass = 0;     // of the mass that truncation kept; 0 unless keeps_mass()
};

// Draws tokens from logits, in float64, as rollcall/v1/identity.proto specifies: a token is a pure
// function of the logits, the options and the uniform.
//
// The options' rules change the logits first (LogitProcessor). Truncation works in the order
// temperature, top-k, top-p, min-p, each on what the one before left. Top-k keeps everything tied
// with the k-th. Top-p keeps a token while the more likely ones
// together have less than top_p of the mass that top-k left; among equal logits the lower id counts
// as more likely. Min-p compares with the largest probability. The likeliest token is always kept.
//
// Holds scratch memory of the vocabulary's size; not thread-safe.
class TokenSampler {
 public:
  // logits: [vocab], float32, -inf allowed; uniform in [0, 1), unused by greedy decoding; history:
  // for the rules, what comes before the token.
  // INTERNAL: NaN or +inf among the logits, or all -inf.
  absl::StatusOr<SampledToken> Sample(std::span<const float> logits, const SamplingOptions& options,
                                      double uniform, const TokenHistory& history = {});

  // The tokens that truncation keeps, ascending, and their probabilities. Requires temperature > 0.
  struct Kept {
    std::vector<uint32_t> tokens;
    std::vector<double> probabilities;
  };
  absl::StatusOr<Kept> KeptTokens(std::span<const float> logits, const SamplingOptions& options,
                                  const TokenHistory& history = {});

 private:
  // Sets the weights of tokens that are cut off to 0.
  void Truncate(std::span<const float> logits, const SamplingOptions& options);
  void KeepTopK(std::span<const float> logits, uint32_t k);
  void KeepTopP(std::span<const float> logits, double top_p);
  // The sum of weights_, which sets sums_.
  double Sum();
  // The first token up to which the weights add up to more than `target`; without one the last of a
  // weight above 0. Since weights_ changed, Sum was called.
  size_t FirstBeyond(double target) const;

  LogitProcessor processor_;
  std::vector<double> weights_;
  std::vector<double> sums_;  // of the weights before each piece of them
  std::vector<float> sorted_logits_;
  std::vector<uint32_t> order_;
};

}  // namespace rollcall::generator
