#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/tensor/named_tensor.h"
#include "common/wire/dtype.h"

namespace rollcall::checkpoint {

// What a Hugging Face model folder is written from.
struct HfFolderSpec {
  std::string
      config_json;  // a JSON object; its dtype field is set to what the tensors are stored as
  std::vector<tensor::NamedTensor> tensors;  // any device; written in this order
  std::optional<wire::DType> dtype;          // store as this dtype; nullopt: each as it is
  // A folder whose tokenizer and generation files are carried over byte for byte (kCarriedFiles,
  // and the .jinja files of kCarriedTemplates, those that exist); "": none.
  std::string source_folder;
  uint64_t max_shard_bytes =
      5'000'000'000;  // Hugging Face's customary limit; more makes several files and an index
};

inline constexpr const char* kCarriedFiles[] = {"tokenizer.json",
                                                "tokenizer_config.json",
                                                "special_tokens_map.json",
                                                "added_tokens.json",
                                                "chat_template.jinja",
                                                "generation_config.json",
                                                "tokenizer.model",
                                                "tokenizer.model.v3",
                                                "vocab.json",
                                                "vocab.txt",
                                                "merges.txt",
                                                "spiece.model",
                                                "tekken.json",
                                                "chat_template.json"};
// Further chat templates, which transformers keeps in a folder of their own.
inline constexpr const char* kCarriedTemplates = "additional_chat_templates";

// Writes a folder that transformers opens, complete or not at all (FolderTransaction); a folder
// that is there already is replaced. INVALID_ARGUMENT: config_json is no object, a tensor name
// twice. Blocks until all is on disk.
absl::Status WriteHfFolder(const std::string& path, const HfFolderSpec& spec);

// The same files into a folder that exists: for a caller that writes more beside them in its own
// FolderTransaction.
absl::Status WriteHfFiles(const std::string& folder, const HfFolderSpec& spec);

// Copies the tokenizer and generation files of `source` (HfFolderSpec.source_folder) into a folder
// that exists; "" has none.
absl::Status CarryTokenizerFiles(const std::string& source, const std::string& folder);

}  // namespace rollcall::checkpoint
