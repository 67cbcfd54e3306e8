#include "common/checkpoint/hf_writer.h"

#include <ATen/core/Tensor.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "common/checkpoint/folder_transaction.h"
#include "common/checkpoint/safetensors.h"
#include "common/tensor/bridge.h"
#include "common/tensor/torch_call.h"

namespace rollcall::checkpoint {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

// A tensor to be stored, with what it is stored as.
struct Stored {
  const tensor::NamedTensor* source;
  TensorEntry entry;
  uint64_t bytes;
};

using Shard = std::vector<const Stored*>;

absl::StatusOr<std::vector<Stored>> Plan(const HfFolderSpec& spec) {
  std::vector<Stored> plan;
  std::set<std::string_view> names;
  for (const tensor::NamedTensor& named : spec.tensors) {
    if (!names.insert(named.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", named.name, "' given twice"));
    }
    ROLLCALL_ASSIGN_OR_RETURN(wire::DType dtype,
                              Annotate(tensor::DTypeOf(named.tensor.scalar_type()), named.name));
    dtype = spec.dtype.value_or(dtype);
    TensorEntry entry{named.name, dtype, named.tensor.sizes().vec()};
    ROLLCALL_ASSIGN_OR_RETURN(const int64_t bytes,
                              Annotate(wire::ByteSize(dtype, entry.shape), named.name));
    plan.push_back({&named, std::move(entry), static_cast<uint64_t>(bytes)});
  }
  return plan;
}

// In the order given; a tensor above the limit gets a shard of its own.
std::vector<Shard> Split(const std::vector<Stored>& plan, uint64_t max_shard_bytes) {
  std::vector<Shard> shards(1);
  uint64_t filled = 0;
  for (const Stored& stored : plan) {
    if (!shards.back().empty() && filled + stored.bytes > max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&stored);
    filled += stored.bytes;
  }
  return shards;
}

absl::Status WriteShard(const std::string& path, const Shard& shard) {
  std::vector<TensorEntry> entries;
  std::map<std::string_view, const Stored*> by_name;
  for (const Stored* stored : shard) {
    entries.push_back(stored->entry);
    by_name.emplace(stored->entry.name, stored);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, std::move(entries)));
  for (const TensorEntry& entry : writer->entries()) {
    const at::Tensor& source = by_name.at(entry.name)->source->tensor;
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor host,
                              Annotate(tensor::TorchCall([&] {
                                         return tensor::HostContiguous(
                                             source.detach().to(tensor::ScalarTypeOf(entry.dtype)));
                                       }),
                                       entry.name));
    ROLLCALL_RETURN_IF_ERROR(writer->Append(tensor::BytesOf(host)));
  }
  return writer->Finish();
}

absl::Status WriteWeights(const fs::path& folder, const std::vector<Stored>& plan,
                          uint64_t max_shard_bytes) {
  const std::vector<Shard> shards = Split(plan, max_shard_bytes);
  if (shards.size() == 1) return WriteShard((folder / "model.safetensors").string(), shards[0]);
  OrderedJson weight_map = OrderedJson::object();
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    ROLLCALL_RETURN_IF_ERROR(WriteShard((folder / name).string(), shards[i]));
    for (const Stored* stored : shards[i]) {
      weight_map[stored->entry.name] = name;
      total += stored->bytes;
    }
  }
  const OrderedJson index = {{"metadata", {{"total_size", total}}},
                             {"weight_map", std::move(weight_map)}};
  return WriteFileAtomically((folder / "model.safetensors.index.json").string(),
                             index.dump(2) + "\n");
}

// transformers builds the model in the dtype that the config names, whatever the tensors are: they
// must agree.
absl::StatusOr<std::string> ConfigText(const HfFolderSpec& spec, const std::vector<Stored>& plan) {
  OrderedJson config = OrderedJson::parse(spec.config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError("config_json is not a JSON object");
  if (!plan.empty()) {
    const std::string dtype(wire::Name(plan[0].entry.dtype));
    const bool has_new_name = config.contains("dtype");
    if (has_new_name) config["dtype"] = dtype;
    if (!has_new_name || config.contains("torch_dtype")) config["torch_dtype"] = dtype;
  }
  return config.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

absl::Status CopyFile(const fs::path& from, const fs::path& to) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(from.string()));
  return WriteFileAtomically(to.string(), bytes);
}

}  // namespace

absl::Status CarryTokenizerFiles(const std::string& from, const std::string& to) {
  if (from.empty()) return absl::OkStatus();
  const fs::path source = from, folder = to;
  std::error_code ignored;
  for (const char* name : kCarriedFiles) {
    if (!fs::exists(source / name, ignored)) continue;
    ROLLCALL_RETURN_IF_ERROR(CopyFile(source / name, folder / name));
  }
  const fs::path templates = source / kCarriedTemplates;
  if (!fs::is_directory(templates, ignored)) return absl::OkStatus();
  ROLLCALL_RETURN_IF_ERROR(MakeDirectories((folder / kCarriedTemplates).string()));
  std::error_code error;
  for (fs::directory_iterator entry(templates, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() != ".jinja") continue;
    ROLLCALL_RETURN_IF_ERROR(
        CopyFile(entry->path(), folder / kCarriedTemplates / entry->path().filename()));
  }
  return error ? absl::ErrnoToStatus(error.value(), templates.string()) : absl::OkStatus();
}

absl::Status WriteHfFiles(const std::string& folder, const HfFolderSpec& spec) {
  ROLLCALL_ASSIGN_OR_RETURN(const std::vector<Stored> plan, Plan(spec));
  ROLLCALL_ASSIGN_OR_RETURN(const std::string config, ConfigText(spec, plan));
  ROLLCALL_RETURN_IF_ERROR(WriteWeights(folder, plan, spec.max_shard_bytes));
  ROLLCALL_RETURN_IF_ERROR(CarryTokenizerFiles(spec.source_folder, folder));
  return WriteFileAtomically((fs::path(folder) / "config.json").string(), config);
}

absl::Status WriteHfFolder(const std::string& path, const HfFolderSpec& spec) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto transaction, FolderTransaction::Begin(path));
  ROLLCALL_RETURN_IF_ERROR(Annotate(WriteHfFiles(transaction->path(), spec), path));
  return transaction->Commit();
}

}  // namespace rollcall::checkpoint
