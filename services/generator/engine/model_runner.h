#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/generator/scheduler/step_plan.h"
#include "services/generator/weights/staged_weights.h"

namespace rollcall::generator {

// The model and its key/value cache, as the engine sees them. Every method is called on the
// engine's thread, which owns the model.
class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  // Called once, first, on the engine's thread.
  virtual void StartOnThisThread() {}

  // Copies the plan's blocks, then runs all its rows through the model. token_ids: [plan.rows].
  // RESOURCE_EXHAUSTED: no memory for this step.
  virtual absl::Status Forward(const StepPlan& plan, std::span<const uint32_t> token_ids) = 0;

  // Logits of some rows of the last Forward: [rows.size(), vocab], float32; valid until the next
  // call of any method.
  virtual absl::StatusOr<std::span<const float>> Logits(std::span<const uint32_t> rows) = 0;

  // Log-prob of `token` under softmax(logits / temperature), in nats: the learner's kernel. logits:
  // [vocab]; temperature > 0.
  virtual float TokenLogProb(std::span<const float> logits, double temperature,
                             uint32_t token) const = 0;

  // Runs task(i) for each i in [0, count), on the model's compute threads where `work`, the number of
  // multiply-adds of all together, is worth it. Tasks must write disjoint results.
  virtual void Parallel(size_t count, size_t work, absl::FunctionRef<void(size_t)> task) {
    (void)work;
    for (size_t i = 0; i < count; ++i) task(i);
  }

  // Replaces all parameters, or only the adapter where the weights are one. They were checked against
  // the model. After an error what they replace is undefined.
  virtual absl::Status LoadWeights(const StagedWeights& weights) = 0;

  virtual uint32_t vocab_size() const = 0;
};

}  // namespace rollcall::generator
