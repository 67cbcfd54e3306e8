#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/batching/batch_engine.h"
#include "rollcall/v1/logprob.pb.h"
#include "services/reference/score_job.h"

namespace rollcall::reference {

// A frozen model that scores batches (what batching::BatchEngine asks of one).
class Scorer {
 public:
  using Job = ScoreJob;
  using Description = v1::ModelDescription;

  virtual ~Scorer() = default;

  virtual const v1::ModelDescription& description() const = 0;

  virtual absl::StatusOr<std::vector<ScoredSequence>> Score(const Batch& batch) = 0;
};

using Engine = batching::BatchEngine<Scorer>;

}  // namespace rollcall::reference
