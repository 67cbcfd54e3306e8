#include "services/learner/algorithms/objective.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace rollcall::learner {
namespace {

struct Preset {
  v1::AlgorithmPreset id;
  const char* name;
  v1::AdvantageNormalization normalization;
  v1::KlEstimator kl_estimator;
  v1::LossAggregation aggregation;
  // Smallest group the advantage estimator can use.
  uint32_t min_group_size;
};

constexpr std::array kPresets = {
    // DeepSeekMath, arXiv 2402.03300, equations 3 and 4.
    Preset{v1::ALGORITHM_PRESET_GRPO, "grpo", v1::ADVANTAGE_NORMALIZATION_GROUP_STD,
           v1::KL_ESTIMATOR_K3, v1::LOSS_AGGREGATION_SEQ_MEAN_TOKEN_MEAN, 2},
};

// The override where it is set, the preset's value where it is not.
template <typename Enum>
Enum Choose(Enum override_value, Enum preset_value) {
  return override_value == Enum{} ? preset_value : override_value;
}

}  // namespace

absl::StatusOr<Objective> ComposeObjective(const v1::AlgorithmSection& section) {
  const Preset* preset = nullptr;
  for (const Preset& row : kPresets) {
    if (row.id == Choose(section.preset(), v1::ALGORITHM_PRESET_GRPO)) preset = &row;
  }
  if (preset == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("algorithm.preset: ", section.preset(), " is not in the table of objectives"));
  }
  if (section.samples_per_prompt() < preset->min_group_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("algorithm.samples_per_prompt: ", preset->name, " compares the samples of a ",
                     "prompt and needs at least ", preset->min_group_size, ", got ",
                     section.samples_per_prompt()));
  }
  if (section.min_valid_samples() < preset->min_group_size) {
    return absl::InvalidArgumentError(absl::StrCat("algorithm.min_valid_samples: ", preset->name,
                                                   " needs at least ", preset->min_group_size,
                                                   ", got ", section.min_valid_samples()));
  }
  Objective objective;
  objective.name = preset->name;
  objective.advantage.normalization =
      Choose(section.advantage_normalization(), preset->normalization);
  objective.advantage.epsilon = section.advantage_epsilon();
  objective.clip = {.low = section.clip_low(), .high = section.clip_high()};
  objective.kl_estimator = Choose(section.kl_estimator(), preset->kl_estimator);
  objective.kl_coefficient = section.kl_coefficient();
  objective.aggregation = Choose(section.aggregation(), preset->aggregation);
  return objective;
}

}  // namespace rollcall::learner
