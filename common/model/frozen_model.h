#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/model/decoder.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/logprob.pb.h"

namespace rollcall::model {

// What a service that never trains its model loads it from.
struct FrozenModelOptions {
  std::string path;  // Hugging Face folder
  Head head = Head::kLanguageModel;
  v1::ComputeDtype dtype = v1::COMPUTE_DTYPE_FLOAT32;
  std::string device = "cpu";
  uint32_t threads = 0;         // 0: all cores this process may use
  uint32_t context_tokens = 0;  // model.context_tokens
  v1::KernelsSection kernels;
};

struct FrozenModel {
  Decoder decoder;
  v1::ModelDescription description;
};

// Loads the model and hashes its weights; call it on the thread that will own the decoder, inside
// TorchCall. INVALID_ARGUMENT: a model with another head; else the statuses of
// ChooseKernels, HfFolder, ModelConfig, LoadParameters and OpenDevice, each naming file and field.
absl::StatusOr<FrozenModel> LoadFrozenModel(const FrozenModelOptions& options);

}  // namespace rollcall::model
