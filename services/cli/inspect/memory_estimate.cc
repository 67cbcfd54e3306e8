#include "services/cli/inspect/memory_estimate.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/model/families/family.h"
#include "common/model/parameter_list.h"

namespace rollcall::inspect {
namespace {

constexpr int64_t kPanelRows =
    32;  // a packed matrix is filled up to a multiple of this (kernels::PackArgs)
constexpr int64_t kFloat = 4;  // bytes

int64_t QuerySize(const model::ModelConfig& config) { return config.num_heads * config.head_dim; }
int64_t KeySize(const model::ModelConfig& config) { return config.num_kv_heads * config.head_dim; }

int64_t Panel(int64_t rows, int64_t columns) {
  return (rows + kPanelRows - 1) / kPanelRows * kPanelRows * columns;
}

// Elements of all matrices as the kernels pack them: those of the blocks and the output matrix.
int64_t PackedElements(const model::ModelConfig& config) {
  int64_t elements = 0;
  for (const model::ParameterSpec& spec : model::ParametersOf(config)) {
    if (model::IsMatrix(spec.part) && !spec.bias) elements += Panel(spec.shape[0], spec.shape[1]);
  }
  const bool tied = config.tie_word_embeddings && config.head == model::Head::kLanguageModel;
  return elements + (tied ? Panel(config.vocab_size, config.hidden_size) : 0);
}

MemoryItem PerElement(const std::string& name, int64_t elements, int64_t bytes,
                      const std::string& of) {
  return {name, absl::StrCat(Grouped(elements), " ", of, " x ", bytes, " B"), elements * bytes};
}

void AddWeights(const model::ModelConfig& config, const MemoryAssumptions& assumptions,
                MemoryEstimate& estimate) {
  const auto width = static_cast<int64_t>(wire::SizeOf(assumptions.dtype));
  estimate.items.push_back(PerElement("weights", config.ParameterCount(), width, "parameters"));
}

void AddPanels(const model::ModelConfig& config, const MemoryAssumptions& assumptions,
               MemoryEstimate& estimate) {
  const auto width = static_cast<int64_t>(wire::SizeOf(assumptions.dtype));
  if (!assumptions.packed_matrices) return;
  estimate.items.push_back(
      PerElement("packed matrices", PackedElements(config), width, "elements"));
}

int64_t AdaptedMatrices(const model::ModelConfig& config, const model::LoraConfig& adapter) {
  int64_t matrices = 0;
  for (const model::AdapterParameter& parameter : model::AdapterParametersOf(config, adapter)) {
    matrices += parameter.role == model::AdapterParameter::Role::kDown ? 1 : 0;
  }
  return matrices;
}

// Elements that one token leaves for the backward pass (the tensors that common/model/operators.cc
// and experts.cc save, each once). A block: its input, the sum between its halves, and a row of the
// same width for each norm: what a norm in front of a half gives, what one behind it takes; rotated
// queries and keys, values, the attention's result; gate, up, and their product; of experts, gate
// and up of each chosen one. Norms of queries and keys keep their inputs. The end: the final norm's
// input and result. Attention probabilities and logits are computed again.
// With activation_checkpointing only the input of each block is kept, and one block at a time has
// the rest.
int64_t ActivationElements(const model::ModelConfig& config, bool checkpointing) {
  const model::BlockNames& names = model::FindFamily(config.family)->names;
  int64_t rows = 2;
  for (const char* norm :
       {names.attention_norm, names.attention_output_norm, names.mlp_norm, names.mlp_output_norm}) {
    rows += norm == nullptr ? 0 : 1;
  }
  const int64_t query = QuerySize(config), key = KeySize(config);
  int64_t elements = 2 * config.hidden_size;
  int64_t largest = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    int64_t block = rows * config.hidden_size + 2 * query + 2 * key;
    if (config.qk_norm != model::QkNorm::kNone) block += query + key;
    block += config.Layer(layer).experts
                 ? 2 * config.experts_per_token * config.expert_intermediate_size
                 : 3 * config.intermediate_size;
    elements += checkpointing ? config.hidden_size : block;
    largest = std::max(largest, block);
  }
  return checkpointing ? elements + largest : elements;
}

// One rank's part of a kind of optimizer state.
MemoryItem Shared(MemoryItem item, const MemoryAssumptions& assumptions) {
  if (assumptions.optimizer_shards > 1) {
    absl::StrAppend(&item.arithmetic, " / ", assumptions.optimizer_shards, " ranks");
    item.bytes /= assumptions.optimizer_shards;
  }
  return item;
}

}  // namespace

int64_t AdapterElements(const model::ModelConfig& config, const model::LoraConfig& adapter) {
  int64_t elements = 0;
  for (const model::AdapterParameter& parameter : model::AdapterParametersOf(config, adapter)) {
    int64_t size = 1;
    for (const int64_t dimension : parameter.shape) size *= dimension;
    elements += size;
  }
  return elements;
}

int64_t MemoryEstimate::Total() const {
  int64_t total = 0;
  for (const MemoryItem& item : items) total += item.bytes;
  return total;
}

MemoryEstimate ServingMemory(const model::ModelConfig& config,
                             const MemoryAssumptions& assumptions) {
  MemoryEstimate estimate;
  AddWeights(config, assumptions, estimate);
  AddPanels(config, assumptions, estimate);
  constexpr int64_t kBlock = 16;  // tokens; any block size gives the same bytes a token
  const int64_t block_bytes =
      config.KvElementsPerToken() * kBlock * static_cast<int64_t>(wire::SizeOf(assumptions.dtype));
  const int64_t blocks = (assumptions.tokens + kBlock - 1) / kBlock;
  estimate.items.push_back({"KV cache",
                            absl::StrCat(Grouped(block_bytes / kBlock), " B a token x ",
                                         Grouped(blocks * kBlock), " tokens"),
                            block_bytes * blocks});
  return estimate;
}

MemoryEstimate TrainingMemory(const model::ModelConfig& config,
                              const MemoryAssumptions& assumptions) {
  const auto width = static_cast<int64_t>(wire::SizeOf(assumptions.dtype));
  MemoryEstimate estimate;
  AddWeights(config, assumptions, estimate);
  int64_t trained = config.ParameterCount(), trained_width = width;
  const char* of = "parameters";
  if (assumptions.adapter) {
    trained = AdapterElements(config, *assumptions.adapter);
    trained_width = kFloat;
    of = "adapter parameters";
    estimate.items.push_back(PerElement("adapter", trained, kFloat, of));
  }
  if (trained_width != kFloat) {
    estimate.items.push_back(
        Shared(PerElement("float32 masters", trained, kFloat, of), assumptions));
  }
  estimate.items.push_back(PerElement("gradients", trained, kFloat, of));
  estimate.items.push_back(
      Shared(PerElement("AdamW's moments", trained, 2 * kFloat, of), assumptions));
  if (assumptions.publishes) {
    estimate.items.push_back(PerElement("copy to publish", trained, trained_width, of));
  }
  int64_t token = ActivationElements(config, assumptions.activation_checkpointing) * width;
  // x A^T of each adapted matrix; of one layer where layers run again.
  if (assumptions.adapter) {
    const int64_t layers = assumptions.activation_checkpointing ? config.num_layers : 1;
    token +=
        AdaptedMatrices(config, *assumptions.adapter) * assumptions.adapter->r * kFloat / layers;
  }
  estimate.items.push_back(
      {"activations",
       absl::StrCat(Grouped(token), " B a token x ", Grouped(assumptions.tokens), " tokens"),
       token * assumptions.tokens});
  return estimate;
}

std::string Grouped(int64_t number) {
  const std::string digits = absl::StrCat(number);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool starts_group = i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0;
    if (starts_group) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

std::string HumanBytes(int64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return absl::StrCat(bytes, " B");
  const int decimals = value < 10 ? 2 : value < 100 ? 1 : 0;
  return absl::StrFormat("%.*f %s", decimals, value, kUnits[unit]);
}

}  // namespace rollcall::inspect
