#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "rollcall/v1/config.pb.h"
#include "services/cli/explain/explanation.h"

namespace rollcall::explain {

// Reads folder/config.json and nothing else. The statuses of ReadFile and ModelConfig::FromJson.
absl::StatusOr<model::ModelConfig> ReadModelConfig(const std::string& folder);

// The model under training, or evaluated: that of model.path, with the head that the stage gives it.
absl::StatusOr<model::ModelConfig> ReadTrainedConfig(const v1::RunConfig& config);

// The models that the run's processes hold and what each takes, by their config.json files;
// services that run elsewhere are among them. A folder that cannot be read is said, not refused.
std::vector<ModelMemory> EstimateModels(const v1::RunConfig& config);

}  // namespace rollcall::explain
