#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/model/frozen_model.h"
#include "services/reference/engine/scorer.h"

namespace rollcall::reference {

// LoadFrozenModel, and its statuses; call it on the engine thread, which then owns the model.
absl::StatusOr<std::unique_ptr<Scorer>> LoadDecoderScorer(const model::FrozenModelOptions& options);

}  // namespace rollcall::reference
