#include "services/learner/data/demonstration_reader.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "services/learner/data/column_path.h"

namespace rollcall::learner {
namespace {

// Tokens before the first taught one.
uint64_t PromptLength(const MaskedTokens& tokens) {
  return static_cast<uint64_t>(std::find(tokens.loss_mask.begin(), tokens.loss_mask.end(), 1) -
                               tokens.loss_mask.begin());
}

// What is taught of a column's tokens, which is at least one of them.
absl::StatusOr<MaskedTokens> Taught(const RowPlace& place, const std::string& column,
                                    absl::StatusOr<MaskedTokens> tokens) {
  if (!tokens.ok()) return Annotate(std::move(tokens), place.Name());
  // Nothing predicts a first token, which only a prompt of no tokens leaves in the loss.
  if (!tokens->loss_mask.empty()) tokens->loss_mask[0] = 0;
  if (std::find(tokens->loss_mask.begin(), tokens->loss_mask.end(), 1) == tokens->loss_mask.end()) {
    return place.Error(absl::StrCat("column \"", column,
                                    "\": expected a completion of at least one token after the "
                                    "first of the row; is there an answer of the assistant's?"));
  }
  return tokens;
}

// Whether a message of the assistant's says anything, in words or by a call of a tool.
bool SaysSomething(const nlohmann::json& message) {
  if (message["role"] != "assistant") return false;
  const auto content = message.find("content");
  const bool silent = content == message.end() || content->is_null() || *content == "";
  // Its role, and the content that says nothing.
  return !silent || message.size() > 2;
}

bool IsEmpty(const nlohmann::json& completion) {
  if (completion.is_string()) return completion == "";
  return std::none_of(completion.begin(), completion.end(), SaysSomething);
}

}  // namespace

absl::StatusOr<MaskedTokens> DemonstrationReader::Read(const RowPlace& place,
                                                       const nlohmann::json& row) const {
  const FoundColumn prompt = FindPrompt(data_, row);
  if (prompt.value == nullptr) return NoPrompt(data_, place, row);
  const nlohmann::json* chat = FindColumn(row, data_.messages_column());
  if (prompt.name == data_.prompt_column()) {
    const nlohmann::json* completion = FindColumn(row, data_.completion_column());
    if (completion != nullptr || chat == nullptr) {
      return ReadPair(place, prompt, {data_.completion_column(), completion});
    }
  }
  if (chat == nullptr) return ReadPair(place, prompt, FindAnswer(data_, row));
  if (!CheckMessages(*chat).ok()) {
    return place.WrongColumn(data_.messages_column(), "a list of messages with roles", *chat);
  }
  return Taught(place, data_.messages_column(), EncodeChat(tokenizer_, *chat, 0));
}

absl::StatusOr<MaskedTokens> DemonstrationReader::ReadPair(const RowPlace& place,
                                                           const FoundColumn& prompt,
                                                           const FoundColumn& completion) const {
  const std::string name = completion.name.empty() ? kAnswerColumn : completion.name;
  if (completion.value == nullptr) {
    return place.Error(absl::StrCat("expected a column \"", name, "\" beside the column \"",
                                    prompt.name, "\"; name it by data.",
                                    name == data_.completion_column() ? "completion" : "answer",
                                    "_column"));
  }
  return EncodePair(place, prompt, completion);
}

absl::Status DemonstrationReader::CheckLength(const RowPlace& place,
                                              const MaskedTokens& tokens) const {
  const uint64_t prompt = PromptLength(tokens);
  if (prompt > data_.max_prompt_tokens()) {
    return place.Error(absl::StrCat("the prompt has ", prompt,
                                    " tokens, data.max_prompt_tokens is ",
                                    data_.max_prompt_tokens()));
  }
  if (max_sequence_tokens_ > 0 && tokens.token_ids.size() > max_sequence_tokens_) {
    return place.Error(absl::StrCat("the row has ", tokens.token_ids.size(),
                                    " tokens, the model's context is ", max_sequence_tokens_));
  }
  return absl::OkStatus();
}

uint64_t DemonstrationReader::Surplus(const MaskedTokens& tokens) const {
  const uint64_t prompt = PromptLength(tokens), size = tokens.token_ids.size();
  const uint64_t cut = prompt - std::min<uint64_t>(prompt, data_.max_prompt_tokens());
  if (max_sequence_tokens_ == 0) return cut;
  return std::max(cut, size - std::min(size, max_sequence_tokens_));
}

bool DemonstrationReader::Cut(MaskedTokens& tokens, uint64_t count) {
  if (count >= PromptLength(tokens)) return false;
  const auto cut = static_cast<ptrdiff_t>(count);
  tokens.token_ids.erase(tokens.token_ids.begin(), tokens.token_ids.begin() + cut);
  tokens.loss_mask.erase(tokens.loss_mask.begin(), tokens.loss_mask.begin() + cut);
  return true;
}

absl::StatusOr<MaskedTokens> DemonstrationReader::EncodePair(const RowPlace& place,
                                                             const FoundColumn& prompt,
                                                             const FoundColumn& completion) const {
  if (prompt.value->is_string()) {
    if (!completion.value->is_string()) {
      return place.WrongColumn(completion.name, "a string", *completion.value);
    }
  } else if (!CheckMessages(*prompt.value).ok()) {
    return place.WrongColumn(prompt.name, "a string or a list of messages with roles",
                             *prompt.value);
  } else if (!completion.value->is_string() && !CheckMessages(*completion.value).ok()) {
    return place.WrongColumn(completion.name, "a string or a list of messages with roles",
                             *completion.value);
  }
  if (IsEmpty(*completion.value)) {
    return place.WrongColumn(completion.name,
                             "an answer, an empty completion teaches nothing (remove the row)",
                             *completion.value);
  }
  if (prompt.value->is_string()) {
    return Taught(
        place, completion.name,
        EncodeStrings(prompt.value->get<std::string>(), completion.value->get<std::string>()));
  }
  nlohmann::json messages = *prompt.value;
  if (completion.value->is_string()) {
    messages.push_back({{"role", "assistant"}, {"content", *completion.value}});
  } else {
    messages.insert(messages.end(), completion.value->begin(), completion.value->end());
  }
  return Taught(place, completion.name, EncodeChat(tokenizer_, messages, prompt.value->size()));
}

absl::StatusOr<MaskedTokens> DemonstrationReader::EncodeStrings(
    const std::string& prompt, const std::string& completion) const {
  MaskedTokens tokens;
  ROLLCALL_ASSIGN_OR_RETURN(tokens.token_ids,
                            tokenizer_.Encode(prompt, data_.add_special_tokens()));
  ROLLCALL_ASSIGN_OR_RETURN(std::vector<uint32_t> rest,
                            EncodeContinuation(tokenizer_, prompt, tokens.token_ids,
                                               prompt + completion, data_.add_special_tokens()));
  if (data_.append_eos()) {
    const std::optional<uint32_t> eos = tokenizer_.eos_id();
    if (!eos.has_value()) {
      return absl::FailedPreconditionError(
          "data.append_eos is set, but the tokenizer names no end-of-sequence token");
    }
    if (rest.empty() || rest.back() != *eos) rest.push_back(*eos);
  }
  tokens.loss_mask.assign(tokens.token_ids.size(), 0);
  tokens.loss_mask.insert(tokens.loss_mask.end(), rest.size(), 1);
  tokens.token_ids.insert(tokens.token_ids.end(), rest.begin(), rest.end());
  return tokens;
}

}  // namespace rollcall::learner
