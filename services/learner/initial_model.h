#pragma once

#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {

// The initial policy of model.path, with the adapter of model.lora where it asks for one, in the compute dtype and on the device of the `model` section;
// sets LibTorch's thread count for the calling thread, which owns the decoder from then on.
// Statuses of the folder's readers, each naming file and field. Blocks on the disk.
absl::StatusOr<model::Decoder> LoadInitialModel(const v1::RunConfig& config);

// The models beside the policy that the run's objective needs in the learner:
//   a critic     of learner.critic.path (or model.path): a reward or value model as it is, a
//                language model with a head that starts at 0 in place of its own
//   a reference  of reference.model_path (or model.path), where it is refreshed
// INVALID_ARGUMENT: one whose vocabulary is another than `policy`'s.
absl::StatusOr<TrainerCompanions> LoadCompanions(const v1::RunConfig& config,
                                                 const model::ModelConfig& policy);

}  // namespace rollcall::learner
