#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/config/run_config.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::config {

// One cell of a preset's row: a field of AlgorithmSection and its value as YAML.
struct PresetCell {
  std::string_view field;
  std::string_view value;
};

// Where the row of `preset` differs from grpo's, whose values are the schema's defaults. The
// sources, formulas and differences to other libraries: docs/objectives.md.
std::vector<PresetCell> PresetCells(v1::AlgorithmPreset preset);

// "reinforce_pp": as the YAML names it.
std::string PresetName(v1::AlgorithmPreset preset);

// Whether the loss is that of pairs of a group's samples.
bool TakesPairs(const v1::AlgorithmSection& algorithm);
// Whether a reward comes from verifiers: distillation without any learns from its teacher alone, and
// no reward service is asked.
bool NeedsRewardService(const v1::RunConfig& config);
// Whether the objective compares with a reference at all.
bool AsksReference(const v1::AlgorithmSection& algorithm);
// Whether that is a service's work: a reference that is refreshed is the learner's own.
bool NeedsReferenceService(const v1::RunConfig& config);

// Cells that depend on the rest of the run where nothing was written for them: asynchronous runs
// correct for the age of their rollouts.
std::vector<PresetCell> RunCells(const v1::RunConfig& config);

// Rules between the cells of an algorithm, and between them and the rest of the run.
std::vector<Violation> FindAlgorithmViolations(const v1::RunConfig& config);

}  // namespace rollcall::config
