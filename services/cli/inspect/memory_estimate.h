#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/model/lora_config.h"
#include "common/model/model_config.h"
#include "common/wire/dtype.h"

namespace rollcall::inspect {

// One thing that takes memory, with the arithmetic that gives its size.
struct MemoryItem {
  std::string name;        // "KV cache"
  std::string arithmetic;  // "1,280 B a token x 512 tokens"
  int64_t bytes = 0;
};

struct MemoryEstimate {
  std::vector<MemoryItem> items;
  int64_t Total() const;
};

// What the estimates assume.
struct MemoryAssumptions {
  wire::DType dtype = wire::DType::kFloat32;  // of weights and activations
  bool packed_matrices =
      true;            // serving: the CPU kernels keep a second, packed copy of each matrix
  int64_t tokens = 0;  // serving: held in the cache; training: in one micro-batch
  // Of training.
  bool publishes = true;         // keeps a copy of the weights to send to generators
  int64_t optimizer_shards = 1;  // ranks that share the optimizer's state
  bool activation_checkpointing = false;
  std::optional<model::LoraConfig> adapter;  // resolved; only it is trained
};

// A generator: weights, packed matrices, KV cache. Scratch memory and what LibTorch itself takes
// are not in it.
MemoryEstimate ServingMemory(const model::ModelConfig& config,
                             const MemoryAssumptions& assumptions);

// Elements of all tensors of an adapter.
int64_t AdapterElements(const model::ModelConfig& config, const model::LoraConfig& adapter);

// A learner, or one rank of it, without its reference: weights, which it does not pack, and the
// adapter; of what is trained float32 masters where it is narrower, float32 gradients, two float32
// moments of AdamW and the copy being published; and the activations that the backward pass keeps.
MemoryEstimate TrainingMemory(const model::ModelConfig& config,
                              const MemoryAssumptions& assumptions);

// "1,048,576": digits in groups of three.
std::string Grouped(int64_t number);

// "1.0 MiB", "3.2 GiB": three significant figures at most.
std::string HumanBytes(int64_t bytes);

}  // namespace rollcall::inspect
