#include "services/learner/utilization.h"

#include <algorithm>

#include "common/model/flops.h"

namespace rollcall::learner {

BatchWork WorkOf(const TrainBatch& batch, const model::ModelConfig& config) {
  BatchWork work;
  for (const TrainSequence& sequence : batch.sequences) {
    const auto scored =
        static_cast<uint64_t>(std::count_if(sequence.loss_mask.begin(), sequence.loss_mask.end(),
                                            [](uint8_t in_loss) { return in_loss != 0; }));
    work.tokens += static_cast<double>(sequence.token_ids.size());
    work.forward_flops += model::ForwardFlops(config, sequence.token_ids.size(), scored);
  }
  return work;
}

void AddUtilization(const v1::RunConfig& config, const BatchWork& work, StepValues& values) {
  const double peak = config.learner().peak_tflops() * 1e12 *
                      static_cast<double>(std::max(1u, config.learner().ranks()));
  const double seconds = ValueOf(values, "time/train_seconds");
  if (peak <= 0 || seconds <= 0 || work.tokens <= 0) return;
  const double passes = ValueOf(values, "tokens") / work.tokens;
  const v1::LoraSection& lora = config.model().lora();
  const double factor = lora.r() > 0 || !lora.path().empty() ? 2 : 3;
  values["mfu"] = work.forward_flops * passes * factor / (seconds * peak);
}

}  // namespace rollcall::learner
