#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/verify/model_runner.h"
#include "services/cli/verify/report.h"
#include "services/learner/trainer/trainer.h"

// What the replays of TRL's trainers share (shared/data/golden/README.md, section "steps").
namespace rollcall::verify {

// Learning rate and AdamW's settings of the recorded run.
v1::OptimizerSection OptimizerOf(const nlohmann::json& golden);

enum class Column { kBehavior, kReference };

// Fills the column of every sequence with log-probs under the runner's weights: of every token after
// the first, 0 for the first.
absl::Status FillLogprobs(ModelRunner& runner, double temperature, Column column,
                          learner::TrainBatch& batch);

// Compares loss, gradient norm and weights after the step of that index, counted from 0.
absl::Status CompareStep(const learner::Trainer& trainer, const learner::StepReport& step,
                         const nlohmann::json& golden, size_t index, Report& report);

}  // namespace rollcall::verify
