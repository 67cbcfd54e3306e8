#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rollcall/v1/checkpoint.pb.h"
#include "services/learner/trainer/trainer.h"

namespace rollcall::learner {

// The checkpoints of a run: one folder per step under `root`, complete or absent.
//
//   root/step-00000012/checkpoint.pb          LearnerCheckpoint, written last
//                      model/                 the weights, a Hugging Face folder; or
//                      adapter/               what is trained of them, a PEFT folder
//                      optimizer.safetensors  moments, masters, number of updates
//                      critic.safetensors, critic_optimizer.safetensors, reference.safetensors
//                                             where the objective has them
//
// Used by the training thread only.
class CheckpointStore {
 public:
  // Layout of the folders written here; newer ones are refused.
  static constexpr uint32_t kFormat = 1;

  // Keeps the newest `keep` (at least 1).
  CheckpointStore(std::string root, uint32_t keep);

  // Writes the trainer's state and `record`, whose fields that the trainer or the store knows are
  // filled in (format, step, manifest hash, numerics, skipped steps, trained tokens,
  // optimizer_sha256, and time where it is 0). Returns the folder. A checkpoint of the same step is
  // replaced in one step. Then removes all but the newest ones; that this failed is logged. Blocks
  // until all is on disk; after an error there is no new checkpoint.
  absl::StatusOr<std::string> Save(v1::LearnerCheckpoint record, const Trainer& trainer);

  struct Loaded {
    std::string folder;
    v1::LearnerCheckpoint record;
  };
  // Restores `trainer` from the newest checkpoint that is whole; one that is damaged is passed over
  // with a warning that says why, and left where it is. nullopt: there is no checkpoint. DATA_LOSS:
  // there are, and all are damaged; the trainer's state is then undefined. FAILED_PRECONDITION: one
  // is whole, and of another base or kind of weights than the trainer's.
  absl::StatusOr<std::optional<Loaded>> LoadNewest(Trainer& trainer) const;

  // Steps that have a folder, ascending; damaged ones included.
  std::vector<uint64_t> Steps() const;
  std::string FolderOf(uint64_t step) const;

 private:
  absl::StatusOr<v1::LearnerCheckpoint> ReadRecord(const std::string& folder) const;
  void RemoveOld() const;

  const std::string root_;
  const uint32_t keep_;
};

}  // namespace rollcall::learner
