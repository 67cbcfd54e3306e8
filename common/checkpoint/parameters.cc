#include "common/checkpoint/parameters.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/tensor/bridge.h"
#include "common/tensor/torch_call.h"

namespace rollcall::checkpoint {
namespace {

constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";
// Small beside any model, large beside the cost of a call. A multiple of every element's size.
constexpr size_t kPieceBytes = size_t{16} << 20;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

bool IsFloating(wire::DType dtype) {
  switch (dtype) {
    case wire::DType::kFloat64:
    case wire::DType::kFloat32:
    case wire::DType::kFloat16:
    case wire::DType::kBFloat16:
      return true;
    default:
      return false;
  }
}

// "" where the stored tensor fits the parameter.
std::string Misfit(const TensorView& stored, const tensor::NamedTensor& parameter) {
  const std::vector<int64_t> wanted = parameter.tensor.sizes().vec();
  if (stored.shape != wanted) {
    return absl::StrCat("shape ", ShapeText(stored.shape), ", the model has ", ShapeText(wanted));
  }
  if (!IsFloating(stored.dtype)) {
    return absl::StrCat("dtype ", std::string(wire::SafetensorsName(stored.dtype)),
                        " cannot be loaded as a weight");
  }
  return "";
}

bool Equal(const TensorView& a, const TensorView& b) {
  const bool equal = a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes;
  ReleasePages(a.bytes);
  ReleasePages(b.bytes);
  return equal;
}

// "" where a tensor that is no parameter may be there.
std::string Surplus(const HfFolder& folder, const TensorView& stored) {
  if (absl::EndsWith(stored.name, "rotary_emb.inv_freq")) return "";
  if (stored.name == kHead) {
    const TensorView* const embedding = folder.Find(kEmbedding);
    if (embedding != nullptr && Equal(stored, *embedding)) return "";
    return absl::StrCat("the model ties it to ", kEmbedding, ", but the two differ");
  }
  return "not a tensor of this model";
}

// What is wrong with the parameters' own tensors; `find` looks one up by name.
template <typename Find>
std::vector<std::string> FaultsOf(std::span<const tensor::NamedTensor> parameters, Find find) {
  std::vector<std::string> faults;
  for (const tensor::NamedTensor& parameter : parameters) {
    const TensorView* const stored = find(parameter.name);
    const std::string fault = stored == nullptr ? "missing" : Misfit(*stored, parameter);
    if (!fault.empty()) faults.push_back(absl::StrCat(parameter.name, ": ", fault));
  }
  return faults;
}

std::unordered_set<std::string_view> NamesOf(std::span<const tensor::NamedTensor> parameters) {
  std::unordered_set<std::string_view> names;
  for (const tensor::NamedTensor& parameter : parameters) names.insert(parameter.name);
  return names;
}

absl::Status Verdict(const std::string& path, const char* what,
                     const std::vector<std::string>& faults) {
  if (faults.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": the weights do not fit the ", what, " in ", faults.size(),
                   faults.size() == 1 ? " tensor: " : " tensors: ", absl::StrJoin(faults, "; ")));
}

absl::Status CheckAll(const HfFolder& folder, std::span<const tensor::NamedTensor> parameters) {
  std::vector<std::string> faults =
      FaultsOf(parameters, [&](const std::string& name) { return folder.Find(name); });
  const std::unordered_set<std::string_view> wanted = NamesOf(parameters);
  for (const TensorView* stored : folder.tensors()) {
    if (wanted.count(stored->name) > 0) continue;
    const std::string fault = Surplus(folder, *stored);
    if (!fault.empty()) faults.push_back(absl::StrCat(stored->name, ": ", fault));
  }
  return Verdict(folder.path(), "model", faults);
}

// In pieces, so that neither the file's pages nor a conversion ever take much memory beside the
// parameters.
absl::Status Fill(const TensorView& stored, const at::Tensor& parameter) {
  const int64_t elements = parameter.numel();
  if (elements == 0 || !parameter.is_contiguous()) {
    return tensor::FillFromBytes(stored.dtype, stored.bytes, parameter);
  }
  ROLLCALL_ASSIGN_OR_RETURN(
      const at::Tensor flat, tensor::TorchCall([&] {
        return parameter.detach().view({-1});  // shares the parameter's version counter
      }));
  const size_t element_bytes = stored.bytes.size() / static_cast<size_t>(elements);
  const auto piece = static_cast<int64_t>(kPieceBytes / element_bytes);
  for (int64_t begin = 0; begin < elements; begin += piece) {
    const int64_t count = std::min(piece, elements - begin);
    const std::string_view bytes = stored.bytes.substr(static_cast<size_t>(begin) * element_bytes,
                                                       static_cast<size_t>(count) * element_bytes);
    ROLLCALL_ASSIGN_OR_RETURN(const at::Tensor part,
                              tensor::TorchCall([&] { return flat.narrow(0, begin, count); }));
    ROLLCALL_RETURN_IF_ERROR(tensor::FillFromBytes(stored.dtype, bytes, part));
    ReleasePages(bytes);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadParameters(const HfFolder& folder,
                            std::span<const tensor::NamedTensor> parameters) {
  ROLLCALL_RETURN_IF_ERROR(CheckAll(folder, parameters));
  for (const tensor::NamedTensor& parameter : parameters) {
    const TensorView& stored = *folder.Find(parameter.name);
    ROLLCALL_RETURN_IF_ERROR(Annotate(Fill(stored, parameter.tensor), parameter.name));
  }
  return absl::OkStatus();
}

absl::Status FillFromFile(const SafetensorsFile& file,
                          std::span<const tensor::NamedTensor> parameters) {
  const auto find = [&](const std::string& name) { return file.Find(name); };
  std::vector<std::string> faults = FaultsOf(parameters, find);
  const std::unordered_set<std::string_view> wanted = NamesOf(parameters);
  for (const TensorView& stored : file.tensors()) {
    if (wanted.count(stored.name) == 0) {
      faults.push_back(absl::StrCat(stored.name, ": not one of them"));
    }
  }
  ROLLCALL_RETURN_IF_ERROR(Verdict(file.path(), "parameters", faults));
  for (const tensor::NamedTensor& parameter : parameters) {
    ROLLCALL_RETURN_IF_ERROR(
        Annotate(Fill(*find(parameter.name), parameter.tensor), parameter.name));
  }
  return absl::OkStatus();
}

absl::Status SaveTensors(const std::string& path, std::span<const tensor::NamedTensor> tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  std::map<std::string_view, const at::Tensor*> by_name;
  for (const tensor::NamedTensor& named : tensors) {
    ROLLCALL_ASSIGN_OR_RETURN(const wire::DType dtype,
                              Annotate(tensor::DTypeOf(named.tensor.scalar_type()), named.name));
    entries.push_back({named.name, dtype, named.tensor.sizes().vec()});
    by_name.emplace(named.name, &named.tensor);
  }
  ROLLCALL_ASSIGN_OR_RETURN(const auto writer,
                            SafetensorsWriter::Create(path, std::move(entries), metadata));
  for (const TensorEntry& entry : writer->entries()) {
    ROLLCALL_ASSIGN_OR_RETURN(
        const at::Tensor host,
        Annotate(tensor::HostContiguous(*by_name.at(entry.name)), entry.name));
    ROLLCALL_RETURN_IF_ERROR(writer->Append(tensor::BytesOf(host)));
  }
  return writer->Finish();
}

absl::StatusOr<std::map<std::string, at::Tensor>> LoadTensors(const std::string& path) {
  ROLLCALL_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  std::map<std::string, at::Tensor> tensors;
  for (const TensorView& view : file->tensors()) {
    ROLLCALL_ASSIGN_OR_RETURN(at::Tensor loaded,
                              Annotate(tensor::TensorFromBytes(view.dtype, view.shape, view.bytes),
                                       absl::StrCat(path, ": ", view.name)));
    tensors.emplace(view.name, std::move(loaded));
  }
  return tensors;
}

}  // namespace rollcall::checkpoint
