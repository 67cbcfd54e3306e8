#pragma once

#include <cstdint>

#include "rollcall/v1/generator.pb.h"
#include "rollcall/v1/rollout.pb.h"

namespace rollcall::learner {

// Everything that decides the content of one group besides the weights: equal specs under equal
// weights give equal groups, whoever serves them and however often they are interrupted.
struct GroupSpec {
  uint64_t group_id = 0;
  v1::RandomPurpose purpose = v1::RANDOM_PURPOSE_ROLLOUT;
  uint64_t run_seed = 0;
  v1::PromptRow prompt;
  uint32_t num_samples = 1;
  v1::SamplingParams sampling;
  v1::StopConditions stop;
  // Without it nobody is asked, and every sample's reward is the sum over no verifiers: 0.
  bool with_score = true;
  // A group with fewer scored samples is dropped.
  uint32_t min_valid_samples = 1;
  bool with_reference = false;
};

}  // namespace rollcall::learner
