#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/lora_config.h"
#include "common/model/model_config.h"

namespace rollcall::inspect {

// What a Hugging Face folder holds, read from its files without loading the weights.
struct ModelDescription {
  std::string folder;
  std::string family;                        // config.json's model_type; "" where it has none
  std::vector<std::string> architectures;    // as config.json lists them
  std::optional<model::ModelConfig> config;  // nullopt: this build does not offer the model
  std::string unsupported_reason;            // why not

  int64_t tensors = 0;
  int64_t parameters = 0;  // elements of all tensors
  int64_t bytes = 0;
  std::map<std::string, int64_t> elements_by_dtype;  // "bfloat16" -> elements

  // nullopt: no tokenizer.json, or one that cannot be read (tokenizer_problem says why).
  std::optional<int64_t> tokenizer_vocabulary;
  std::string tokenizer_problem;
  std::vector<std::string> chat_templates;  // their names; "default" is the usual one
  std::vector<int64_t> eos_token_ids;

  std::optional<model::LoraConfig> adapter;  // DescribeAdapter
  int64_t adapter_tensors = 0;
};

// The statuses of checkpoint::HfFolder::Open; a model that this build does not offer is described
// all the same.
absl::StatusOr<ModelDescription> DescribeModel(const std::string& folder);

// Adds what a PEFT folder holds for this model. The statuses of model::ReadAdapterConfig; where a
// tensor is missing, unexpected or of another shape, INVALID_ARGUMENT that lists them all.
absl::Status DescribeAdapter(const std::string& folder, ModelDescription& description);

}  // namespace rollcall::inspect
