#include "common/model/flops.h"

#include <algorithm>

namespace rollcall::model {
namespace {

// Keys that all tokens of a sequence see together: 1 + 2 + … up to the window.
double KeysSeen(uint64_t length, uint64_t window) {
  const double full = static_cast<double>(std::min(length, window));
  const double beyond = static_cast<double>(length) - full;
  return full * (full + 1) / 2 + beyond * full;
}

// Weights that a token is multiplied with in one layer.
double WeightsOfLayer(const ModelConfig& config, const LayerOptions& layer) {
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto head = static_cast<double>(config.head_dim);
  const auto queries = static_cast<double>(config.num_heads) * head;
  const auto keys = static_cast<double>(config.num_kv_heads) * head;
  const double attention = hidden * (queries + 2 * keys) + queries * hidden;
  if (!layer.experts) {
    return attention + 3 * hidden * static_cast<double>(config.intermediate_size);
  }
  const double expert = 3 * hidden * static_cast<double>(config.expert_intermediate_size);
  return attention + static_cast<double>(config.experts_per_token) * expert +
         hidden * static_cast<double>(config.num_experts);
}

}  // namespace

double ForwardFlops(const ModelConfig& config, uint64_t length, uint64_t scored) {
  const auto tokens = static_cast<double>(length);
  const double queries = static_cast<double>(config.num_heads * config.head_dim);
  double flops = 0;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const LayerOptions layer = config.Layer(i);
    const uint64_t window = layer.sliding ? static_cast<uint64_t>(config.sliding_window) : length;
    flops += 2 * tokens * WeightsOfLayer(config, layer);
    flops += 4 * queries * KeysSeen(length, window);
  }
  const int64_t outputs = config.head == Head::kLanguageModel ? config.vocab_size : 1;
  return flops + 2 * static_cast<double>(scored) * static_cast<double>(config.hidden_size) *
                     static_cast<double>(outputs);
}

}  // namespace rollcall::model
