#include "services/cli/model/init_model.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "c10/core/Device.h"
#include "common/base/file.h"
#include "common/base/shutdown.h"
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

int RunInit(std::span<const std::string> arguments, std::ostream& out, std::ostream& errors) {
  CLI::App app{"Make a model folder with random weights from the config.json in it",
               "rollcall init"};
  std::string folder;
  uint64_t seed = 0;
  std::string dtype = "float32";
  app.add_option("folder", folder,
                 "Folder that holds a config.json, and tokenizer files where there are any")
      ->required();
  app.add_option("--seed", seed, "Same seed, same weights")->capture_default_str();
  app.add_option("--dtype", dtype, "Dtype of the stored weights")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  // CLI11 takes the arguments last first.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, errors) == 0 ? kExitClean : kExitUsage;
  }
  const absl::Status status = InitializeModelFolder(
      folder, seed, dtype == "bfloat16" ? wire::DType::kBFloat16 : wire::DType::kFloat32);
  if (status.ok()) return kExitClean;
  errors << "rollcall init: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInternal ? kExitFailure : kExitUsage;
}

}  // namespace rollcall::cli
