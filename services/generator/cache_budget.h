#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace rollcall::generator {

// What the size of a key/value cache is decided from; bytes unless said otherwise.
struct CacheDemand {
  // generator.kv_cache_bytes; 0: by `fraction`.
  uint64_t wanted = 0;
  // generator.kv_memory_fraction.
  double fraction = 0.5;
  // What can still be taken, before this generator's weights.
  uint64_t available = 0;
  std::string available_source;
  // This generator's weights, as often as it holds them.
  uint64_t weights = 0;
  // What other services of this box will take and have not taken yet, as far as it can be told.
  uint64_t others = 0;
  // Generators of this box, which divide what is left.
  uint32_t generators = 1;

  uint64_t block = 0;
  uint32_t block_tokens = 0;         // tokens
  uint64_t context = 0;              // longest sequence, tokens
  uint32_t max_running_samples = 1;  // samples
};

struct CacheBudget {
  uint32_t blocks = 0;
  uint64_t bytes = 0;
  // "(22.1 GiB MemAvailable - 1.2 GiB weights - 3.0 GiB others) x 0.5 / 2 generators = 4.5 GiB".
  std::string arithmetic;
};

// The blocks that the budget holds, and no more than all running samples can fill. Pure.
// INVALID_ARGUMENT names the field and says what would fit: the cache must hold one sequence of the
// longest kind; a size that was asked for must be there. RESOURCE_EXHAUSTED: not even the weights
// fit.
absl::StatusOr<CacheBudget> PlanCache(const CacheDemand& demand);

}  // namespace rollcall::generator
