#include "services/generator/cache_budget.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace rollcall::generator {
namespace {

std::string Bytes(uint64_t bytes) {
  constexpr double kMebibyte = 1 << 20, kGibibyte = 1 << 30;
  const auto value = static_cast<double>(bytes);
  if (value >= kGibibyte) return absl::StrFormat("%.2f GiB", value / kGibibyte);
  if (value >= kMebibyte) return absl::StrFormat("%.2f MiB", value / kMebibyte);
  return absl::StrCat(bytes, " B");
}

// Bytes for the cache, and how they come about.
absl::StatusOr<uint64_t> Affordable(const CacheDemand& demand, std::string* arithmetic) {
  const std::string available =
      absl::StrCat(Bytes(demand.available), " (", demand.available_source, ")");
  if (demand.weights >= demand.available) {
    return absl::ResourceExhaustedError(absl::StrCat("the weights take ", Bytes(demand.weights),
                                                     " and there are ", available,
                                                     " of memory: take a smaller model, or "
                                                     "model.dtype: bfloat16"));
  }
  const uint64_t after_weights = demand.available - demand.weights;
  if (demand.wanted > 0) {
    *arithmetic = absl::StrCat("generator.kv_cache_bytes = ", Bytes(demand.wanted));
    if (demand.wanted <= after_weights) return demand.wanted;
    return absl::InvalidArgumentError(
        absl::StrCat("generator.kv_cache_bytes: ", Bytes(demand.wanted), " are wanted, and of ",
                     available, " the weights leave ", Bytes(after_weights),
                     "; 0 takes generator.kv_memory_fraction of it"));
  }
  const uint64_t left = after_weights - std::min(after_weights, demand.others);
  const auto bytes = static_cast<uint64_t>(static_cast<double>(left) * demand.fraction /
                                           std::max(1u, demand.generators));
  *arithmetic = absl::StrCat(
      "(", available, " - ", Bytes(demand.weights), " weights - ", Bytes(demand.others),
      " for other services) x ", demand.fraction, " / ", demand.generators,
      demand.generators == 1 ? " generator" : " generators", " = ", Bytes(bytes));
  return bytes;
}

}  // namespace

absl::StatusOr<CacheBudget> PlanCache(const CacheDemand& demand) {
  CacheBudget budget;
  const absl::StatusOr<uint64_t> bytes = Affordable(demand, &budget.arithmetic);
  if (!bytes.ok()) return bytes.status();
  const uint64_t affordable = *bytes / demand.block;
  const uint64_t per_sequence = (demand.context + demand.block_tokens - 1) / demand.block_tokens;
  if (affordable < per_sequence) {
    return absl::InvalidArgumentError(absl::StrCat(
        demand.wanted > 0 ? "generator.kv_cache_bytes" : "generator.kv_memory_fraction",
        ": the cache gets ", Bytes(*bytes), " [", budget.arithmetic, "], which hold ",
        affordable * demand.block_tokens, " tokens, and one sequence may take ", demand.context,
        " (model.context_tokens): ", Bytes(per_sequence * demand.block),
        " would hold it; with these a context of ", affordable * demand.block_tokens, " fits"));
  }
  constexpr uint64_t kMostBlocks = uint64_t{1} << 30;
  budget.blocks = static_cast<uint32_t>(
      std::min({affordable, per_sequence * demand.max_running_samples, kMostBlocks}));
  budget.bytes = budget.blocks * demand.block;
  return budget;
}

}  // namespace rollcall::generator
