#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "common/checkpoint/safetensors.h"

namespace rollcall::checkpoint {

// How transformers 5 may write a mixture of experts (save_original_format=False): all experts'
// matrices in one tensor,
//   <layer>.mlp.experts.gate_up_proj: [experts, 2 x inner, hidden], gates first
//   <layer>.mlp.experts.down_proj:    [experts, hidden, inner]
// The matrices lie one after the other, so each is a view into the same bytes.

// The matrices of one such tensor under the names that the family's checkpoints on the Hub have,
// which a `model_type` of "mixtral" spells its own way, and so is a router of Mixtral, whose name
// differs alone. nullopt: `tensor` is none of these and stays as it is.
std::optional<std::vector<TensorView>> SplitFusedExperts(const TensorView& tensor,
                                                         std::string_view model_type);

}  // namespace rollcall::checkpoint
