#include "common/model/frozen_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/model/identity.h"
#include "common/model/kernel_choice.h"
#include "common/tensor/compute_threads.h"
#include "common/tensor/device.h"

namespace rollcall::model {
namespace {

const char* NameOf(Head head) {
  switch (head) {
    case Head::kLanguageModel:
      return "a language model (…ForCausalLM)";
    case Head::kSequenceScore:
      return "a reward model (…ForSequenceClassification with one label)";
    case Head::kTokenScore:
      return "a value model (…ForTokenClassification with one label)";
  }
  return "";
}

absl::Status CheckHead(const std::string& file, Head expected, Head got) {
  if (expected == got) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": architectures: expected ", NameOf(expected), ", got ", NameOf(got)));
}

}  // namespace

absl::StatusOr<FrozenModel> LoadFrozenModel(const FrozenModelOptions& options) {
  tensor::StartComputeThreads(options.threads, tensor::ModelThread::kEngine);
  ROLLCALL_RETURN_IF_ERROR(ChooseKernels(options.kernels));
  ROLLCALL_ASSIGN_OR_RETURN(const c10::Device device, tensor::OpenDevice(options.device));
  ROLLCALL_ASSIGN_OR_RETURN(const checkpoint::HfFolder folder,
                            checkpoint::HfFolder::Open(options.path));
  const std::string file = folder.path() + "/config.json";
  ROLLCALL_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::FromJson(folder.config_json(), file));
  ROLLCALL_RETURN_IF_ERROR(CheckHead(file, options.head, config.head));
  ROLLCALL_RETURN_IF_ERROR(config.UseContext(options.context_tokens));
  const at::ScalarType dtype =
      options.dtype == v1::COMPUTE_DTYPE_BFLOAT16 ? at::kBFloat16 : at::kFloat;
  ROLLCALL_ASSIGN_OR_RETURN(Decoder decoder, Decoder::Create(config, dtype, device));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::LoadParameters(folder, decoder.parameters()));
  decoder.InvalidatePacked();

  ROLLCALL_ASSIGN_OR_RETURN(const v1::WeightManifest manifest, ManifestOf(decoder));
  v1::ModelDescription description;
  ROLLCALL_ASSIGN_OR_RETURN(*description.mutable_manifest_hash(), ManifestHash(manifest));
  description.set_architecture_hash(manifest.architecture_hash());
  ROLLCALL_ASSIGN_OR_RETURN(*description.mutable_tokenizer_hash(), TokenizerHash(options.path));
  *description.mutable_numerics() = FingerprintOf(decoder);
  description.set_context_length(static_cast<uint32_t>(config.max_position_embeddings));
  description.set_vocab_size(static_cast<uint32_t>(config.vocab_size));
  return FrozenModel{std::move(decoder), std::move(description)};
}

}  // namespace rollcall::model
