#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "common/batching/batch_engine.h"
#include "rollcall/v1/logprob.pb.h"
#include "services/reward/model/score_job.h"

namespace rollcall::reward {

// A reward model that scores batches (what batching::BatchEngine asks of one).
class ModelScorer {
 public:
  using Job = ModelJob;
  using Description = v1::ModelDescription;

  virtual ~ModelScorer() = default;

  virtual const v1::ModelDescription& description() const = 0;

  virtual absl::StatusOr<std::vector<float>> Score(const ModelBatch& batch) = 0;
};

using ModelEngine = batching::BatchEngine<ModelScorer>;

}  // namespace rollcall::reward
