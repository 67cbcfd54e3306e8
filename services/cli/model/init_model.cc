#include "services/cli/model/init_model.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "c10/core/Device.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_writer.h"
#include "common/model/decoder.h"
#include "common/model/model_config.h"
#include "common/tensor/torch_call.h"

namespace rollcall::cli {

absl::Status InitializeModelFolder(const std::string& folder, uint64_t seed, wire::DType dtype) {
  for (const char* weights :
       {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}) {
    if (std::filesystem::exists(folder + "/" + weights)) {
      return absl::AlreadyExistsError(
          absl::StrCat(folder, "/", weights, ": the folder has weights already"));
    }
  }
  const std::string config_path = folder + "/config.json";
  ROLLCALL_ASSIGN_OR_RETURN(const std::string json, ReadFile(config_path));
  ROLLCALL_ASSIGN_OR_RETURN(const model::ModelConfig config,
                            model::ModelConfig::FromJson(json, config_path));
  return tensor::TorchCall([&]() -> absl::Status {
    ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder,
                              model::Decoder::Create(config, at::kFloat, at::Device(at::kCPU)));
    decoder.InitializeRandom(seed);
    return checkpoint::WriteHfFolder(folder, {.config_json = json,
                                              .tensors = decoder.parameters(),
                                              .dtype = dtype,
                                              .source_folder = folder});
  });
}

}  // namespace rollcall::cli
