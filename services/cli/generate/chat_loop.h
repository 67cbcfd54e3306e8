#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/shutdown.h"
#include "common/text/tokenizer.h"

namespace rollcall::cli {

// Answers to a prompt of these tokens, printed as it comes; `turn` counts from 0.
using AnswerFn =
    std::function<absl::StatusOr<std::string>(const std::vector<uint32_t>& prompt, uint64_t turn)>;

// The tokens of a chat with the header of the assistant's next message. The template writes BOS
// itself where the model wants one. `messages_json`: a JSON list.
absl::StatusOr<std::vector<uint32_t>> ChatTokens(const text::Tokenizer& tokenizer,
                                                 const std::string& messages_json);

// A chat on standard input, a message a line, until its end or a shutdown. "/reset" forgets what
// was said, "/exit" ends. An answer that fails for its prompt (INVALID_ARGUMENT, as when the chat
// fills the model's context) is reported and its message forgotten; other errors end the chat.
absl::Status Chat(const text::Tokenizer& tokenizer, const std::string& system,
                  const AnswerFn& answer, Shutdown& shutdown);

}  // namespace rollcall::cli
