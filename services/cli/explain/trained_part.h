#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "common/model/lora_config.h"
#include "common/model/model_config.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// The adapter that the run trains, resolved for its model; nullopt: every parameter is trained.
// Reads model.lora.path. The statuses of model::ResolveLora and ReadPeftConfig, which the learner
// gives, too.
absl::StatusOr<std::optional<model::LoraConfig>> AdapterOf(const v1::RunConfig& config,
                                                           const model::ModelConfig& model);

// How much of the policy or reward model is trained, and what that costs; `model` is the one under
// training. Nothing for stage eval.
TrainedPart DescribeTrained(const v1::RunConfig& config,
                            const absl::StatusOr<model::ModelConfig>& model);

}  // namespace rollcall::explain
