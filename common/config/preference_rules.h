#pragma once

#include <vector>

#include "common/config/run_config.h"
#include "rollcall/v1/config.pb.h"

namespace rollcall::config {

// Whether the stage's loss is one of section `preference`: dpo, simpo, orpo, kto. Their sources,
// formulas and differences to other libraries: docs/objectives.md.
bool LearnsFromPreferences(v1::Stage stage);

// Whether the stage reads pairs of a chosen and a rejected completion: those but kto, and
// reward_model.
bool ReadsPairs(v1::Stage stage);

// preference.beta where it is set, else the stage's own: 2 for simpo (its paper, arXiv 2405.14734, takes
// 2 to 2.5), 0.1 for the others (DPO, arXiv 2305.18290, appendix B, and the papers of ORPO and KTO).
float PreferenceBeta(const v1::RunConfig& config);

// What a stage takes where nobody wrote the cell: PreferenceBeta, and for simpo means instead of
// sums. `mean_log_prob_written`: whether that cell was written.
void FillPreferenceCells(bool mean_log_prob_written, v1::RunConfig* config);

// Fields of sections preference, data, learner and reference that the stage cannot use, or that
// exclude each other.
std::vector<Violation> FindPreferenceViolations(const v1::RunConfig& config);

}  // namespace rollcall::config
