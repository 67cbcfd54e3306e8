#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rollcall/v1/logprob.pb.h"
#include "services/reference/batch_queue.h"

namespace rollcall::reference {

// A frozen model that scores batches. Owned and called by the engine thread only, but for
// description(), which is constant after construction.
class Scorer {
 public:
  virtual ~Scorer() = default;

  virtual const v1::ModelDescription& description() const = 0;

  // One result per item, in order. Blocks for the forward pass. An error concerns the whole batch:
  // RESOURCE_EXHAUSTED when memory ran out.
  virtual absl::StatusOr<std::vector<ScoredSequence>> Score(const Batch& batch) = 0;
};

}  // namespace rollcall::reference
