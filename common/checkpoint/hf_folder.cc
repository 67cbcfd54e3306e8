#include "common/checkpoint/hf_folder.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/checkpoint/fused_experts.h"

namespace rollcall::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// A real index of 100,000 tensors takes about 10 MB.
constexpr size_t kMaxJsonFile = 64'000'000;

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Deeper than anything Hugging Face writes. A file of brackets alone would take a hundred times its
// size in memory.
constexpr int kMaxJsonDepth = 100;

bool NestsDeeper(std::string_view json, int limit) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > limit) return true;
  }
  return false;
}

absl::StatusOr<std::string> ReadJsonObject(const std::string& path, Json* parsed) {
  std::error_code error;
  if (Exists(path) && !fs::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  const uintmax_t size = fs::file_size(path, error);
  if (!error && size > kMaxJsonFile) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", size, " bytes are too many for a JSON file"));
  }
  ROLLCALL_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  if (NestsDeeper(text, kMaxJsonDepth)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": nested more than ", kMaxJsonDepth, " levels deep"));
  }
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object())
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  if (parsed != nullptr) *parsed = std::move(value);
  return text;
}

absl::Status NoWeights(const fs::path& folder) {
  std::string message =
      absl::StrCat(folder.string(), ": neither model.safetensors nor model.safetensors.index.json");
  if (Exists(folder / "pytorch_model.bin") || Exists(folder / "pytorch_model.bin.index.json")) {
    absl::StrAppend(
        &message,
        "; pytorch_model.bin is a pickle, which is not read: save the model as safetensors");
  }
  return absl::NotFoundError(message);
}

bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

absl::StatusOr<HfFolder> HfFolder::Open(const std::string& path) {
  const fs::path folder(path);
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such model folder"));
  }
  HfFolder result;
  result.path_ = path;
  Json config;
  ROLLCALL_ASSIGN_OR_RETURN(result.config_json_,
                            ReadJsonObject((folder / "config.json").string(), &config));
  const Json model_type = config.value("model_type", Json());
  if (model_type.is_string()) result.model_type_ = model_type.get<std::string>();
  if (Exists(folder / "generation_config.json")) {
    ROLLCALL_ASSIGN_OR_RETURN(
        result.generation_config_json_,
        ReadJsonObject((folder / "generation_config.json").string(), nullptr));
  }
  // With both present, transformers takes the single file; so do we.
  if (Exists(folder / "model.safetensors")) {
    ROLLCALL_ASSIGN_OR_RETURN(auto file,
                              SafetensorsFile::Open((folder / "model.safetensors").string()));
    ROLLCALL_RETURN_IF_ERROR(result.AddFile(std::move(file)));
  } else if (Exists(folder / "model.safetensors.index.json")) {
    ROLLCALL_RETURN_IF_ERROR(result.OpenShards((folder / "model.safetensors.index.json").string()));
  } else {
    return NoWeights(folder);
  }
  std::sort(result.tensors_.begin(), result.tensors_.end(),
            [](const TensorView* a, const TensorView* b) { return a->name < b->name; });
  return result;
}

absl::Status HfFolder::AddFile(std::shared_ptr<const SafetensorsFile> file) {
  for (const TensorView& tensor : file->tensors()) {
    auto parts = SplitFusedExperts(tensor, model_type_);
    if (!parts) {
      ROLLCALL_RETURN_IF_ERROR(AddTensor(tensor, *file));
      continue;
    }
    for (TensorView& part : *parts) {
      ROLLCALL_RETURN_IF_ERROR(AddTensor(parts_.emplace_back(std::move(part)), *file));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status HfFolder::AddTensor(const TensorView& tensor, const SafetensorsFile& file) {
  if (!by_name_.emplace(tensor.name, &tensor).second) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": tensor '", tensor.name, "' is there twice"));
  }
  tensors_.push_back(&tensor);
  return absl::OkStatus();
}

absl::Status HfFolder::OpenShards(const std::string& index_path) {
  Json index;
  ROLLCALL_ASSIGN_OR_RETURN(const std::string text, ReadJsonObject(index_path, &index));
  const auto fail = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": ", what));
  };
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty())
    return fail("weight_map is missing or empty");
  std::map<std::string, std::vector<std::string>> names_by_file;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string() || !IsPlainFileName(file.get_ref<const std::string&>())) {
      return fail(absl::StrCat("tensor '", name, "': its file must be a name in this folder"));
    }
    names_by_file[file.get_ref<const std::string&>()].push_back(name);
  }
  for (const auto& [file_name, names] : names_by_file) {
    ROLLCALL_ASSIGN_OR_RETURN(auto file,
                              SafetensorsFile::Open((fs::path(path_) / file_name).string()));
    for (const std::string& name : names) {
      if (file->Find(name) == nullptr)
        return fail(absl::StrCat("tensor '", name, "' is not in ", file_name));
    }
    if (file->tensors().size() != names.size()) {
      for (const TensorView& tensor : file->tensors()) {
        const auto entry = map->find(tensor.name);
        if (entry == map->end() || *entry != file_name) {
          return fail(
              absl::StrCat("does not say that tensor '", tensor.name, "' is in ", file_name));
        }
      }
    }
    ROLLCALL_RETURN_IF_ERROR(AddFile(std::move(file)));
  }
  return absl::OkStatus();
}

const TensorView* HfFolder::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

}  // namespace rollcall::checkpoint
