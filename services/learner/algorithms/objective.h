#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/algorithms/advantage.h"
#include "services/learner/algorithms/policy_loss.h"

namespace rollcall::learner {

// An algorithm as data: which advantage, which clip, which KL, which aggregation. A name such as
// `grpo` is a row of the preset table in objective.cc; the configuration overrides its parts.
struct Objective {
  std::string name;
  GroupNormalization advantage;
  ClipRange clip;
  v1::KlEstimator kl_estimator = v1::KL_ESTIMATOR_K3;
  // Weight of the KL to the reference in the loss; 0: the objective has no such term.
  double kl_coefficient = 0;
  v1::LossAggregation aggregation = v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN;

  bool needs_reference() const { return kl_coefficient > 0; }
};

// The objective that `section` describes: the preset's row, its enum parts overridden where they
// are set, its numbers taken from the section (whose defaults are grpo's). INVALID_ARGUMENT names
// the field that the objective cannot use, such as samples_per_prompt below 2.
absl::StatusOr<Objective> ComposeObjective(const v1::AlgorithmSection& section);

}  // namespace rollcall::learner
