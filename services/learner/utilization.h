#pragma once

#include "common/model/model_config.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/batching/batch.h"
#include "services/learner/step_values.h"

namespace rollcall::learner {

// What one pass over a batch takes.
struct BatchWork {
  double tokens = 0;
  double forward_flops = 0;  // model::ForwardFlops of every sequence
};

BatchWork WorkOf(const TrainBatch& batch, const model::ModelConfig& config);

// Adds "mfu", the model FLOPs utilisation of the trainer, where learner.peak_tflops says what there
// is to utilise:
//
//   forward_flops * passes * f / (time/train_seconds * learner.peak_tflops * 1e12 * learner.ranks)
//
// with passes = tokens ("tokens" of the step, which counts a token anew in every epoch) / tokens of
// the batch, and f = 3, a forward pass and a backward one that takes twice as much; 2 with an
// adapter, whose backward pass has no gradients of the large matrices. Passes that only score (old
// log-probs, a critic's, activation checkpointing's second forward) are no progress and not counted.
void AddUtilization(const v1::RunConfig& config, const BatchWork& work, StepValues& values);

}  // namespace rollcall::learner
