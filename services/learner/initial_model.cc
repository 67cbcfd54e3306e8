#include "services/learner/initial_model.h"

#include <ATen/Parallel.h>

#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/tensor/device.h"
#include "common/tensor/torch_call.h"

namespace rollcall::learner {
namespace {

absl::StatusOr<model::Decoder> Load(const v1::RunConfig& config) {
  if (config.learner().threads() > 0) {
    at::set_num_threads(static_cast<int>(config.learner().threads()));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const c10::Device device, tensor::OpenDevice(config.model().device()));
  ROLLCALL_ASSIGN_OR_RETURN(const checkpoint::HfFolder folder,
                            checkpoint::HfFolder::Open(config.model().path()));
  ROLLCALL_ASSIGN_OR_RETURN(
      model::ModelConfig model,
      model::ModelConfig::FromJson(folder.config_json(), folder.path() + "/config.json"));
  ROLLCALL_RETURN_IF_ERROR(Annotate(model.RequireLanguageModel(), folder.path() + "/config.json"));
  ROLLCALL_RETURN_IF_ERROR(model.UseContext(config.model().context_tokens()));
  const at::ScalarType dtype =
      config.model().dtype() == v1::COMPUTE_DTYPE_BFLOAT16 ? at::kBFloat16 : at::kFloat;
  ROLLCALL_ASSIGN_OR_RETURN(model::Decoder decoder, model::Decoder::Create(model, dtype, device));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(folder, decoder.parameters()));
  decoder.InvalidatePacked();
  return decoder;
}

}  // namespace

absl::StatusOr<model::Decoder> LoadInitialModel(const v1::RunConfig& config) {
  return tensor::TorchCall([&] { return Load(config); });
}

}  // namespace rollcall::learner
