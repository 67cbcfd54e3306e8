#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/reference/engine/scorer.h"

namespace rollcall::reference {

// What the frozen model is loaded from.
struct DecoderScorerOptions {
  std::string model_path;  // Hugging Face folder
  v1::ComputeDtype dtype = v1::COMPUTE_DTYPE_FLOAT32;
  std::string device = "cpu";
  uint32_t threads = 0;         // 0: all cores this process may use
  uint32_t context_tokens = 0;  // model.context_tokens
};

// Loads the model and hashes its weights; call it on the engine thread, which then owns it.
// Statuses of HfFolder, ModelConfig, LoadParameters and OpenDevice, each naming file and field.
absl::StatusOr<std::unique_ptr<Scorer>> LoadDecoderScorer(const DecoderScorerOptions& options);

}  // namespace rollcall::reference
