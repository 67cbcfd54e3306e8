#include "services/learner/data/chat_encoding.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace rollcall::learner {
namespace {

absl::StatusOr<std::string> Render(const text::Tokenizer& tokenizer, const nlohmann::json& messages,
                                   size_t count, bool add_generation_prompt) {
  const nlohmann::json first(messages.begin(), messages.begin() + static_cast<ptrdiff_t>(count));
  text::ChatTemplateOptions options;
  options.add_generation_prompt = add_generation_prompt;
  return tokenizer.ApplyChatTemplate(first.dump(), options);
}

absl::StatusOr<text::RenderedChat> RenderFirst(const text::Tokenizer& tokenizer,
                                               const nlohmann::json& messages, size_t count) {
  const nlohmann::json first(messages.begin(), messages.begin() + static_cast<ptrdiff_t>(count));
  return tokenizer.RenderChat(first.dump(), {});
}

// Some characters of `text` from `at` on, quoted.
std::string Excerpt(std::string_view text, size_t at) {
  constexpr size_t kShownBytes = 40;
  const bool cut = text.size() - at > kShownBytes;
  // Within a character the rest of its bytes is shown escaped.
  const std::string shown(text.substr(at, kShownBytes));
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(shown), cut ? "…\"" : "\"");
}

// INVALID_ARGUMENT unless `longer`, the text of a chat that goes on to messages[message], begins
// with `shorter`, the text of fewer messages.
absl::Status CheckGrowth(std::string_view shorter, std::string_view longer, size_t message) {
  if (longer.substr(0, shorter.size()) == shorter) return absl::OkStatus();
  size_t at = 0;
  while (at < longer.size() && shorter[at] == longer[at]) ++at;
  return absl::InvalidArgumentError(absl::StrCat(
      "the chat template rewrites history at message ", message, ": at byte ", at,
      " the text of the messages before has ", Excerpt(shorter, at), ", with it that becomes ",
      Excerpt(longer, at),
      ". No training text holds every answer as the model gave it: teach the last answer alone "
      "(a prompt and its completion), or give the model a chat template that keeps what was said"));
}

// Length of the part of a turn that the policy itself would sample: up to the first token that ends
// a completion.
size_t SampledLength(const text::Tokenizer& tokenizer, const std::vector<uint32_t>& turn) {
  const auto& ends = tokenizer.eos_ids();
  const auto first = std::find_first_of(turn.begin(), turn.end(), ends.begin(), ends.end());
  return static_cast<size_t>(first - turn.begin()) + (first == turn.end() ? 0 : 1);
}

// `text`, that of a whole chat, without the end-of-sequence token that some templates put behind a
// chat and not between its turns (Phi-3), unless `longer` goes on behind it.
std::string_view WithoutClosingToken(const text::Tokenizer& tokenizer, std::string_view text,
                                     std::string_view longer) {
  if (longer.substr(0, text.size()) == text || !tokenizer.eos_id().has_value()) return text;
  const std::string closing = tokenizer.IdToToken(*tokenizer.eos_id()).value_or("");
  if (text.ends_with(closing)) text.remove_suffix(closing.size());
  return text;
}

void Append(const std::vector<uint32_t>& ids, size_t taught, MaskedTokens& tokens) {
  tokens.token_ids.insert(tokens.token_ids.end(), ids.begin(), ids.end());
  for (size_t i = 0; i < ids.size(); ++i) tokens.loss_mask.push_back(i < taught ? 1 : 0);
}

// Index of the assistant's first message from messages[from] on; their number where there is none.
size_t NextTurn(const nlohmann::json& messages, size_t from) {
  while (from < messages.size() && messages[from]["role"] != "assistant") ++from;
  return from;
}

// The mask from the differences between the texts of ever longer chats.
absl::StatusOr<MaskedTokens> EncodeByPrefixes(const text::Tokenizer& tokenizer,
                                              const nlohmann::json& messages, size_t first_taught) {
  MaskedTokens tokens;
  std::string encoded;  // the text of tokens.token_ids
  const auto advance = [&](const std::string& text) -> absl::StatusOr<std::vector<uint32_t>> {
    ROLLCALL_ASSIGN_OR_RETURN(std::vector<uint32_t> ids,
                              EncodeContinuation(tokenizer, encoded, tokens.token_ids, text,
                                                 /*add_special_tokens=*/false));
    encoded = text;
    return ids;
  };
  size_t turn = NextTurn(messages, first_taught);
  std::string before;
  if (turn < messages.size()) {
    ROLLCALL_ASSIGN_OR_RETURN(before, Render(tokenizer, messages, turn, true));
  }
  while (turn < messages.size()) {
    const size_t next = NextTurn(messages, turn + 1);
    std::string next_before;
    ROLLCALL_ASSIGN_OR_RETURN(std::string after, Render(tokenizer, messages, turn + 1, false));
    if (next < messages.size()) {
      ROLLCALL_ASSIGN_OR_RETURN(next_before, Render(tokenizer, messages, next, true));
      after.resize(WithoutClosingToken(tokenizer, after, next_before).size());
      ROLLCALL_RETURN_IF_ERROR(CheckGrowth(after, next_before, next));
    }
    ROLLCALL_RETURN_IF_ERROR(CheckGrowth(before, after, turn));
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> context, advance(before));
    Append(context, 0, tokens);
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> taught, advance(after));
    Append(taught, SampledLength(tokenizer, taught), tokens);
    turn = next;
    before = std::move(next_before);
  }
  return tokens;
}

// The mask from the generation blocks of `chat`, the text of the first `count` messages: every
// token that has a byte in one, as transformers counts them.
absl::StatusOr<MaskedTokens> EncodeBySpans(const text::Tokenizer& tokenizer,
                                           const nlohmann::json& messages, size_t first_taught,
                                           size_t count, const text::RenderedChat& chat) {
  size_t taught_from = 0;  // byte of the text
  if (first_taught > 0) {
    ROLLCALL_ASSIGN_OR_RETURN(const std::string prompt,
                              Render(tokenizer, messages, first_taught, false));
    ROLLCALL_RETURN_IF_ERROR(CheckGrowth(prompt, chat.text, first_taught));
    taught_from = prompt.size();
  }
  for (size_t i = first_taught; i + 1 < count; ++i) {
    if (messages[i]["role"] != "assistant") continue;
    ROLLCALL_ASSIGN_OR_RETURN(const std::string after, Render(tokenizer, messages, i + 1, false));
    ROLLCALL_RETURN_IF_ERROR(
        CheckGrowth(WithoutClosingToken(tokenizer, after, chat.text), chat.text, i + 1));
  }
  ROLLCALL_ASSIGN_OR_RETURN(const text::Encoding encoding,
                            tokenizer.EncodeWithOffsets(chat.text, /*add_special_tokens=*/false));
  MaskedTokens tokens;
  tokens.token_ids = encoding.ids;
  for (const text::Encoding::Offset& offset : encoding.offsets) {
    const auto holds = [&](const text::RenderedChat::Span& span) {
      return span.begin >= taught_from && offset.end > span.begin && offset.begin < span.end;
    };
    tokens.loss_mask.push_back(
        std::any_of(chat.generation_spans.begin(), chat.generation_spans.end(), holds) ? 1 : 0);
  }
  return tokens;
}

}  // namespace

absl::Status CheckMessages(const nlohmann::json& messages) {
  const auto has_role = [](const nlohmann::json& message) {
    return message.is_object() && message.contains("role") && message["role"].is_string();
  };
  if (messages.is_array() && !messages.empty() &&
      std::all_of(messages.begin(), messages.end(), has_role)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("expected a list of messages, each with a \"role\"");
}

absl::StatusOr<std::string> RenderPrompt(const text::Tokenizer& tokenizer,
                                         const nlohmann::json& messages) {
  return Render(tokenizer, messages, messages.size(), /*add_generation_prompt=*/true);
}

absl::StatusOr<std::vector<uint32_t>> EncodeContinuation(const text::Tokenizer& tokenizer,
                                                         std::string_view prefix,
                                                         const std::vector<uint32_t>& prefix_ids,
                                                         std::string_view text,
                                                         bool add_special_tokens) {
  ROLLCALL_ASSIGN_OR_RETURN(std::vector<uint32_t> whole,
                            tokenizer.Encode(text, add_special_tokens));
  if (whole.size() >= prefix_ids.size() &&
      std::equal(prefix_ids.begin(), prefix_ids.end(), whole.begin())) {
    whole.erase(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(prefix_ids.size()));
    return whole;
  }
  return tokenizer.Encode(text.substr(prefix.size()), /*add_special_tokens=*/false);
}

absl::StatusOr<MaskedTokens> EncodeChat(const text::Tokenizer& tokenizer,
                                        const nlohmann::json& messages, size_t first_taught) {
  size_t count = messages.size();  // up to the last turn that is taught
  while (count > first_taught && messages[count - 1]["role"] != "assistant") --count;
  if (count == first_taught) return MaskedTokens{};
  ROLLCALL_ASSIGN_OR_RETURN(const text::RenderedChat chat, RenderFirst(tokenizer, messages, count));
  if (chat.generation_spans.empty()) return EncodeByPrefixes(tokenizer, messages, first_taught);
  return EncodeBySpans(tokenizer, messages, first_taught, count, chat);
}

}  // namespace rollcall::learner
