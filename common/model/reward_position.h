#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace rollcall::model {

// Which token of a sequence a reward model is read at: the last one that is not padding, as
// transformers' ForSequenceClassification has it. Where pad_token_id is also the end-of-sequence
// token, that is the token before the end. 0 where all tokens are padding.
inline size_t RewardPosition(std::span<const uint32_t> token_ids,
                             std::optional<int64_t> pad_token_id) {
  size_t position = token_ids.size();
  while (position > 0) {
    --position;
    if (!pad_token_id || static_cast<int64_t>(token_ids[position]) != *pad_token_id)
      return position;
  }
  return 0;
}

}  // namespace rollcall::model
