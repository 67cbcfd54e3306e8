#include "services/cli/inspect/model_description.h"

#include <ATen/ops/empty.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/checkpoint/hf_folder.h"
#include "common/checkpoint/parameters.h"
#include "common/checkpoint/safetensors.h"
#include "common/model/adapter_folder.h"
#include "common/text/tokenizer.h"
#include "common/text/tokenizer_folder.h"

namespace rollcall::inspect {
namespace {

using Json = nlohmann::json;

void DescribeConfig(const checkpoint::HfFolder& files, ModelDescription& description) {
  const Json json = Json::parse(files.config_json(), nullptr, /*allow_exceptions=*/false);
  const Json family = json.value("model_type", Json());
  if (family.is_string()) description.family = family.get<std::string>();
  for (const Json& architecture : json.value("architectures", Json::array())) {
    if (architecture.is_string())
      description.architectures.push_back(architecture.get<std::string>());
  }
  absl::StatusOr<model::ModelConfig> config =
      model::ModelConfig::FromJson(files.config_json(), absl::StrCat(files.path(), "/config.json"));
  if (config.ok()) {
    description.config = *std::move(config);
    description.eos_token_ids = description.config->eos_token_ids;
  } else {
    description.unsupported_reason = std::string(config.status().message());
  }
}

void DescribeTensors(const checkpoint::HfFolder& files, ModelDescription& description) {
  for (const checkpoint::TensorView* tensor : files.tensors()) {
    const auto elements = static_cast<int64_t>(tensor->bytes.size() / wire::SizeOf(tensor->dtype));
    ++description.tensors;
    description.parameters += elements;
    description.bytes += static_cast<int64_t>(tensor->bytes.size());
    description.elements_by_dtype[std::string(wire::Name(tensor->dtype))] += elements;
  }
}

void DescribeTokenizer(ModelDescription& description) {
  const auto tokenizer = text::Tokenizer::Load(description.folder);
  if (!tokenizer.ok()) {
    description.tokenizer_problem = std::string(tokenizer.status().message());
    return;
  }
  description.tokenizer_vocabulary = (*tokenizer)->vocab_size();
  const auto files = text::ReadTokenizerFolder(description.folder);
  if (files.ok()) {
    for (const auto& [name, source] : files->chat_templates) {
      description.chat_templates.push_back(name);
    }
  }
  const auto& ids = (*tokenizer)->eos_ids();
  if (!ids.empty()) description.eos_token_ids.assign(ids.begin(), ids.end());
}

}  // namespace

absl::StatusOr<ModelDescription> DescribeModel(const std::string& folder) {
  ROLLCALL_ASSIGN_OR_RETURN(const checkpoint::HfFolder files, checkpoint::HfFolder::Open(folder));
  ModelDescription description;
  description.folder = folder;
  DescribeConfig(files, description);
  DescribeTensors(files, description);
  DescribeTokenizer(description);
  return description;
}

absl::Status DescribeAdapter(const std::string& folder, ModelDescription& description) {
  if (!description.config) {
    return absl::UnimplementedError(absl::StrCat(description.unsupported_reason));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const model::LoraConfig lora,
                            model::ReadAdapterConfig(folder, *description.config));
  std::vector<tensor::NamedTensor> tensors;
  for (const model::AdapterParameter& parameter :
       model::AdapterParametersOf(*description.config, lora)) {
    tensors.push_back({parameter.name, at::empty(parameter.shape, at::kFloat)});
  }
  ROLLCALL_ASSIGN_OR_RETURN(const auto file, checkpoint::SafetensorsFile::Open(absl::StrCat(
                                                 folder, "/", model::kAdapterTensorsFile)));
  ROLLCALL_RETURN_IF_ERROR(checkpoint::FillFromFile(*file, tensors));
  description.adapter = lora;
  description.adapter_tensors = static_cast<int64_t>(tensors.size());
  return absl::OkStatus();
}

}  // namespace rollcall::inspect
