#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/wire/record_file.h"
#include "rollcall/v1/logprob.pb.h"
#include "services/learner/batching/batch.h"

namespace rollcall::learner {

// Log-probs of sequences under one frozen model, kept in a file of a folder that runs share. The
// file is named after the model's weights and numerics; an entry is found by the sequence's tokens
// and by where its scored part begins. In memory are only the places of the entries.
//
// A file that is damaged in the middle is cut there, with a warning, and an entry whose checksum
// does not hold is not found: what is missing is scored again. A folder that another run is writing
// to is read, and nothing is added to it.
//
// Not thread-safe.
class ReferenceCache {
 public:
  // Makes the folder where it is not there. `writer` tells processes of one run apart, each of which
  // writes a file of its own and reads those of all. Blocks on the disk. Statuses of the file system.
  static absl::StatusOr<std::unique_ptr<ReferenceCache>> Open(const std::string& folder,
                                                              const v1::ModelDescription& model,
                                                              uint32_t writer);

  // Nats, of the tokens from FirstScored on; nullopt where there is no good entry.
  std::optional<std::vector<float>> Find(const TrainSequence& sequence);

  // Keeps them. Statuses of RecordWriter::Append.
  absl::Status Add(const TrainSequence& sequence, std::span<const float> logprobs);
  // Makes what was added durable.
  absl::Status Sync();

  uint64_t entries() const { return places_.size(); }

 private:
  // The first half of a SHA-256.
  using Key = std::array<uint64_t, 2>;
  struct Place {
    uint32_t file = 0;
    uint64_t offset = 0;
  };

  ReferenceCache() = default;
  static Key KeyOf(const std::string& digest);
  absl::Status ReadFile(const std::string& path, bool own);

  std::vector<std::unique_ptr<wire::RecordReader>> files_;
  std::map<Key, Place> places_;
  std::unique_ptr<wire::RecordWriter> writer_;  // null: another run writes
  uint32_t own_file_ = 0;
};

// Index of the sequence's first token in the loss, which there is.
size_t FirstScored(const TrainSequence& sequence);

}  // namespace rollcall::learner
