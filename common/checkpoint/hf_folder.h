#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "common/checkpoint/safetensors.h"

namespace rollcall::checkpoint {

// A Hugging Face model folder, opened for reading: config.json and the tensors of
// model.safetensors, or of the shards that model.safetensors.index.json names. Without LibTorch.
// Immutable and thread-safe; the tensors' bytes are mapped and stay valid as long as any copy of
// the object.
class HfFolder {
 public:
  // NOT_FOUND: no such folder, no config.json, no weights in safetensors format (a folder with only
  // pickled weights is said to be one). INVALID_ARGUMENT: malformed JSON or tensors, an index that
  // contradicts its shards, a tensor in two shards, a shard outside the folder. Messages start with
  // the path of the file at fault.
  static absl::StatusOr<HfFolder> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::string& config_json() const { return config_json_; }  // the text; a JSON object
  const std::optional<std::string>& generation_config_json() const {
    return generation_config_json_;
  }

  // All tensors, sorted by name; of a mixture of experts each matrix by itself, however the file
  // holds them (fused_experts.h).
  const std::vector<const TensorView*>& tensors() const { return tensors_; }
  const TensorView* Find(std::string_view name) const;  // nullptr: not in the folder

 private:
  HfFolder() = default;

  absl::Status OpenShards(const std::string& index_path);
  absl::Status AddFile(std::shared_ptr<const SafetensorsFile> file);
  absl::Status AddTensor(const TensorView& tensor, const SafetensorsFile& file);

  std::string path_;
  std::string config_json_;
  std::optional<std::string> generation_config_json_;
  std::string model_type_;  // of config.json; "" where it has none
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::deque<TensorView> parts_;  // of tensors that were taken apart
  std::vector<const TensorView*> tensors_;
  std::unordered_map<std::string_view, const TensorView*> by_name_;
};

}  // namespace rollcall::checkpoint
