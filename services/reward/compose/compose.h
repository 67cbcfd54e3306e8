#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/verifier.pb.h"

namespace rollcall::reward {

// What the contract allows in a Score and a Fault (verifier.proto).
inline constexpr int kMaxComponents = 64;
inline constexpr size_t kMaxComponentNameBytes = 64;
inline constexpr size_t kMaxDetailBytes = 4096;
// Spans of one sample; a step-wise verifier gives tens.
inline constexpr int kMaxSpans = 4096;

// One verifier's part in the reward.
struct RewardTerm {
  explicit RewardTerm(const v1::VerifierConfig& config);

  // Whether its score can change the reward. A term that only reports may fail without harm.
  bool decides() const { return weight != 0 || gate.has_value(); }

  std::string name;
  double weight;
  std::optional<double> gate;
  double reward_if_gated;
};

// The result of one sample from each term's, in the order of `terms`. Pure.
//
// - A deciding verifier that failed makes the sample `error`, or `retry` where every failure is a
// passing one: a
//   failure is never taken for 0. Failures of verifiers that only report are left out.
// - A verifier that abstained adds nothing and its gate is open; if every deciding one did, the
// sample abstains. Where none decides (distillation) the value is 0.
// - Else the value is the sum of weight times score, or reward_if_gated of the first term whose
// score is below its gate.
//   A sum that is not finite is an `error`.
//
// Components: `name` is each verifier's score, `name/part` its parts; past 64 the later parts are
// left out. Details are joined as "name: detail; …". Spans carry weight times value, and are left
// out where a gate fails.
v1::SampleResult ComposeSample(std::span<const RewardTerm> terms,
                               std::span<const v1::SampleResult* const> results);

// Whether `results` has one group per group of `request` and one result per sample, in order, with
// equal ids. INVALID_ARGUMENT names the first difference.
absl::Status CheckShape(std::span<const v1::VerifierGroup* const> groups,
                        const v1::ScoreResponse& response);

// Turns a result that breaks the contract (no outcome, NaN, bad component names, spans outside the
// completion) into an `error` that says so, and cuts overlong texts. False when it had to.
bool EnforceContract(const v1::VerifierSample& sample, v1::SampleResult* result);

}  // namespace rollcall::reward
