#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "services/cli/verify/comparison.h"
#include "services/cli/verify/report.h"

namespace rollcall::verify {

// Whether `reference` names a trainer of recorded data: SFT, DPO, CPO (SimPO), ORPO or KTO.
bool IsOfflineTrainer(const std::string& reference);

// Replays its steps by the learner's trainer, on the token ids that reached the reference's loss.
absl::Status ReplayOfflineSteps(const std::string& model_folder, const nlohmann::json& golden,
                                const GoldenTensors& tensors, Report& report);

}  // namespace rollcall::verify
