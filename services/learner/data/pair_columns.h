#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "rollcall/v1/config.pb.h"
#include "services/learner/data/jsonl_file.h"
#include "services/learner/data/row_columns.h"

namespace rollcall::learner {

// A prompt and two answers to it, in the words of the row: strings or lists of messages.
struct PairColumns {
  // The column that the prompt was found in; that of `chosen` where it is implicit.
  std::string prompt_column;
  nlohmann::json prompt, chosen, rejected;
};

// The prompt and the completions of a row of preferences, in the shapes that TRL knows:
//   explicit  prompt, chosen and rejected: three strings, or messages (a completion may be a string)
//   whole     the same, but chosen and rejected are whole chats that begin with the prompt, a list
//             of messages or the text of one of the user's (UltraFeedback)
//   implicit  no prompt: chosen and rejected are whole, and the prompt is what both begin with: all
//             messages up to the first that differs, or the text up to the word that differs, the
//             space before it left to the completions, as TRL's extract_prompt does
//
// INVALID_ARGUMENT names the column: one is missing or no text, the prompt is no beginning of a
// whole chat, the two share no beginning, one is empty or ends where the other goes on, or they are
// equal.
absl::StatusOr<PairColumns> SplitPair(const v1::DataSection& data, const RowPlace& place,
                                      const nlohmann::json& row);

}  // namespace rollcall::learner
