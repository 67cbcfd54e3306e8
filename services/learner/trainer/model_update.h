#pragma once

#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "services/learner/trainer/sharded_optimizer.h"

namespace rollcall::learner {

// How one optimizer step ended.
struct ModelUpdate {
  // Loss over all ranks, and the gradient's norm before clipping.
  double loss = 0;
  double grad_norm = 0;
  // Both are finite; otherwise nothing was updated.
  bool taken = false;
};

// Sums `loss` and the gradients that the parameters of `decoder` have accumulated over the ranks,
// clips them to max_grad_norm (0: not at all), lets `optimizer` take its step and clears the
// gradients. Statuses of the process group; LibTorch's exceptions pass through.
absl::StatusOr<ModelUpdate> UpdateModel(model::Decoder& decoder, ShardedOptimizer& optimizer,
                                        double loss, double lr, double max_grad_norm);

}  // namespace rollcall::learner
