#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"

namespace rollcall::learner {

// Tokens of a demonstration and which of them it teaches (1).
struct MaskedTokens {
  std::vector<uint32_t> token_ids;
  std::vector<uint8_t> loss_mask;
};

// OK when `messages` is a list of objects, each with a "role"; otherwise INVALID_ARGUMENT says what
// is expected.
absl::Status CheckMessages(const nlohmann::json& messages);

// The prompt as the policy sees it before it answers: the template's text with the header of the
// assistant's turn.
absl::StatusOr<std::string> RenderPrompt(const text::Tokenizer& tokenizer,
                                         const nlohmann::json& messages);

// `text`, which begins with `prefix`, as tokens that begin with `prefix_ids`: the tokens of the
// whole text where they do, else prefix_ids and the rest encoded by itself, as a generator would
// continue that prefix. Returns the rest.
absl::StatusOr<std::vector<uint32_t>> EncodeContinuation(const text::Tokenizer& tokenizer,
                                                         std::string_view prefix,
                                                         const std::vector<uint32_t>& prefix_ids,
                                                         std::string_view text,
                                                         bool add_special_tokens);

// A chat as tokens, with the loss on what the assistant says in messages[first_taught] and later.
// Where the template has {% generation %} blocks, those are what it says, as transformers'
// return_assistant_tokens_mask has them. Elsewhere it is the difference between the template's text
// up to the header of its turn and the text with the turn, up to the first end-of-sequence token in
// it where there is one (what a template puts after that is never sampled).
//
// INVALID_ARGUMENT when the template rewrites what it said earlier (a longer chat's text does not
// begin with the shorter one's, as with templates that drop the thinking of earlier turns), for
// then no token sequence teaches every turn as it will be seen.
absl::StatusOr<MaskedTokens> EncodeChat(const text::Tokenizer& tokenizer,
                                        const nlohmann::json& messages, size_t first_taught);

}  // namespace rollcall::learner
