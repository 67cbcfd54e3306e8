#pragma once

#include <ATen/core/TensorBody.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "common/model/kv_cache.h"
#include "services/generator/engine/model_runner.h"

namespace rollcall::generator {

// ModelRunner over the decoder and its paged cache. The one place of the engine that calls
// LibTorch; its exceptions become statuses here.
class DecoderRunner final : public ModelRunner {
 public:
  // threads: compute threads of the engine's thread; 0: all that may run at once.
  DecoderRunner(model::Decoder decoder, model::KvCache cache, uint32_t threads);

  void StartOnThisThread() override;
  absl::Status Forward(const StepPlan& plan, std::span<const uint32_t> token_ids) override;
  absl::StatusOr<std::span<const float>> Logits(std::span<const uint32_t> rows) override;
  float TokenLogProb(std::span<const float> logits, double temperature,
                     uint32_t token) const override;
  void Parallel(size_t count, size_t work, absl::FunctionRef<void(size_t)> task) override;
  absl::Status LoadWeights(const StagedWeights& weights) override;
  uint32_t vocab_size() const override;

 private:
  model::Decoder decoder_;
  model::KvCache cache_;
  const uint32_t threads_;
  at::Tensor hidden_;  // of the last Forward: [rows, hidden]
  at::Tensor logits_;  // of the last Logits: [rows, vocab], float32, on the CPU
};

}  // namespace rollcall::generator
