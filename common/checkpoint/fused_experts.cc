#include "common/checkpoint/fused_experts.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace rollcall::checkpoint {
namespace {

constexpr std::string_view kGateUp = ".mlp.experts.gate_up_proj";
constexpr std::string_view kDown = ".mlp.experts.down_proj";
constexpr std::string_view kRouter = ".mlp.gate.weight";

struct Names {
  const char* module;
  const char* gate;
  const char* up;
  const char* down;
};
constexpr Names kMixtral = {".block_sparse_moe", "w1", "w3", "w2"};
constexpr Names kOthers = {".mlp", "gate_proj", "up_proj", "down_proj"};

bool EndsWith(const std::string& name, std::string_view end) {
  return absl::EndsWith(name, {end.data(), end.size()});
}

std::string Layer(const TensorView& tensor, std::string_view end) {
  return tensor.name.substr(0, tensor.name.size() - end.size());
}

}  // namespace

std::optional<std::vector<TensorView>> SplitFusedExperts(const TensorView& tensor,
                                                         std::string_view model_type) {
  const bool mixtral = model_type == "mixtral";
  const Names& names = mixtral ? kMixtral : kOthers;
  if (mixtral && EndsWith(tensor.name, kRouter)) {
    TensorView router = tensor;
    router.name = absl::StrCat(Layer(tensor, kRouter), names.module, ".gate.weight");
    return std::vector<TensorView>{std::move(router)};
  }
  const bool gate_up = EndsWith(tensor.name, kGateUp);
  if (!gate_up && !EndsWith(tensor.name, kDown)) return std::nullopt;
  if (tensor.shape.size() != 3 || tensor.shape[0] < 1) return std::nullopt;
  if (gate_up && tensor.shape[1] % 2 != 0) return std::nullopt;
  const std::string module = absl::StrCat(Layer(tensor, gate_up ? kGateUp : kDown), names.module);
  const int64_t experts = tensor.shape[0], matrices = gate_up ? 2 : 1;
  const size_t bytes = tensor.bytes.size() / static_cast<size_t>(experts * matrices);
  std::vector<TensorView> parts;
  for (int64_t i = 0; i < experts * matrices; ++i) {
    const char* const matrix = !gate_up ? names.down : i % 2 == 0 ? names.gate : names.up;
    parts.push_back(
        {.name = absl::StrCat(module, ".experts.", i / matrices, ".", matrix, ".weight"),
         .dtype = tensor.dtype,
         .shape = {tensor.shape[1] / matrices, tensor.shape[2]},
         .bytes = tensor.bytes.substr(static_cast<size_t>(i) * bytes, bytes)});
  }
  return parts;
}

}  // namespace rollcall::checkpoint
