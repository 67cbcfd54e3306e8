#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "rollcall/v1/config.pb.h"
#include "rollcall/v1/rollout.pb.h"
#include "services/learner/data/examples.h"

namespace rollcall::learner {

// Tokenised prompts in the order of their files. `epoch` is 0; `columns` holds all columns but the
// prompt's, and the answer as `answer`; `messages` a chat's.
using PromptSet = ExampleSet<v1::PromptRow>;

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

// The same in memory, or streamed where the files' text takes more than `memory_bytes`; `data` and
// `tokenizer` must outlive it. Also the statuses of RowStream::Open.
absl::StatusOr<std::shared_ptr<const Examples<v1::PromptRow>>> OpenPrompts(
    const v1::DataSection& data, const google::protobuf::RepeatedPtrField<v1::DataSource>& sources,
    const text::Tokenizer& tokenizer, uint64_t seed, uint64_t memory_bytes = kMemoryBytes);

}  // namespace rollcall::learner
