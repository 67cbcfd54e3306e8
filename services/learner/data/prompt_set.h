#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/data/mixture_order.h"

namespace rollcall::learner {

// How many rows of the files are not in a set that was read from them, or not whole.
struct LeftOutRows {
  uint64_t unreadable = 0;  // data.on_bad_row: skip
  uint64_t too_long = 0;    // data.on_long_prompt: drop
  // Left in, without the beginning of their prompt (data.on_long_prompt: truncate).
  uint64_t truncated = 0;
};

// Tokenised prompts in the order of their files.
struct PromptSet {
  // `epoch` is 0; `columns` holds all columns but the prompt's, and the answer as `answer`;
  // `messages` a chat's.
  std::vector<v1::PromptRow> rows;
  // Of the files in turn, where they have weights; else empty.
  std::vector<SourceRows> sources;
  LeftOutRows left_out;
};

// Reads prompts for reinforcement learning or evaluation. A prompt (FindPrompt says which column)
// is a string (encoded with special tokens as data.add_special_tokens says) or a list of messages
// (rendered by the tokenizer's chat template). A chat must not end with the assistant. Where a row
// has no column `answer`, what FindAnswer finds is added under that name.
//
// A truncated prompt keeps its last data.max_prompt_tokens tokens, and its text is theirs.
//
// Errors name file, line, column and what is expected. INVALID_ARGUMENT: a bad row or too long a
// prompt, where the configuration does not say to leave it out, no row left (of a weighted file:
// in that file), or weights on some files only;
// FAILED_PRECONDITION: messages without a chat template; otherwise those of ReadFile.
absl::StatusOr<PromptSet> LoadPrompts(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer);

}  // namespace rollcall::learner
