#include "services/learner/data/chat_encoding.h"

#include <algorithm>

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

absl::Status CheckGrowth(std::string_view shorter, std::string_view longer, size_t message) {
  if (longer.substr(0, shorter.size()) == shorter) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the chat template rewrites history at message ", message,
                   ": the text with it does not begin with the text before it"));
}

// Length of the part of a turn that the policy itself would sample.
size_t SampledLength(const text::Tokenizer& tokenizer, const std::vector<uint32_t>& turn) {
  const auto& ends = tokenizer.eos_ids();
  const auto last = std::find_if(turn.rbegin(), turn.rend(), [&](uint32_t id) {
    return std::find(ends.begin(), ends.end(), id) != ends.end();
  });
  return last == turn.rend() ? turn.size() : static_cast<size_t>(turn.rend() - last);
}

void Append(const std::vector<uint32_t>& ids, size_t taught, MaskedTokens& tokens) {
  tokens.token_ids.insert(tokens.token_ids.end(), ids.begin(), ids.end());
  for (size_t i = 0; i < ids.size(); ++i) tokens.loss_mask.push_back(i < taught ? 1 : 0);
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
  MaskedTokens tokens;
  std::string encoded;  // the text of tokens.token_ids
  const auto advance = [&](const std::string& text) -> absl::StatusOr<std::vector<uint32_t>> {
    ROLLCALL_ASSIGN_OR_RETURN(std::vector<uint32_t> ids,
                              EncodeContinuation(tokenizer, encoded, tokens.token_ids, text,
                                                 /*add_special_tokens=*/false));
    encoded = text;
    return ids;
  };
  for (size_t i = first_taught; i < messages.size(); ++i) {
    if (messages[i]["role"] != "assistant") continue;
    ROLLCALL_ASSIGN_OR_RETURN(const std::string before, Render(tokenizer, messages, i, true));
    ROLLCALL_ASSIGN_OR_RETURN(const std::string after, Render(tokenizer, messages, i + 1, false));
    ROLLCALL_RETURN_IF_ERROR(CheckGrowth(encoded, before, i));
    ROLLCALL_RETURN_IF_ERROR(CheckGrowth(before, after, i));
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> context, advance(before));
    Append(context, 0, tokens);
    ROLLCALL_ASSIGN_OR_RETURN(const std::vector<uint32_t> turn, advance(after));
    Append(turn, SampledLength(tokenizer, turn), tokens);
  }
  return tokens;
}

}  // namespace rollcall::learner
