#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/model/frozen_model.h"
#include "services/reward/model/scorer.h"

namespace rollcall::reward {

// LoadFrozenModel with the head of a reward model, and its statuses; call it on the engine thread,
// which then owns the model. A sequence's score is the head's value at model::RewardPosition, the
// same bits in any batch.
absl::StatusOr<std::unique_ptr<ModelScorer>> LoadDecoderScorer(model::FrozenModelOptions options);

}  // namespace rollcall::reward
